"""Control tokens of chat formats, which begin and end turns: an answer that contains one as text would end there."""

import re

# Those of the model families in use that do not look like `<|word|>`, as vocabularies and chat templates write them.
FAMILY_TOKENS = frozenset((
    # Gemma
    "<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<bos>", "<eos>", "<pad>",
    # Llama 2, Mistral, BioGPT
    "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    # Qwen, SmolLM
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
))  # fmt: skip
# Common ones that do: only what is listed is quoted in messages, because anything could be between the bars.
_WITH_BARS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
_ANY = re.compile("|".join([r"<[|｜][\w/.▁-]{1,40}[|｜]>", *map(re.escape, sorted(FAMILY_TOKENS))]))


def control_token_in(text: str) -> str | None:
    """The first control token of any known family in a text, as a message may quote it; `None` if there is none."""
    found = _ANY.search(text)
    if not found:
        return None
    return found[0] if found[0] in FAMILY_TOKENS or found[0] in _WITH_BARS else "<|…|>"
