"""Label scoring: how likely a model holds every label of a list, from one pass over the prompt and a trie of the labels."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from scipy.special import logsumexp
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from radrecipes.errors import InputError
from radrecipes.inference.distributed import answer_batches
from radrecipes.inference.generation import shared_beginning
from radrecipes.models.lm_head import at_positions, lm_head_input

_ROOT = 0  # the trie's root stands for the prompt itself
_PADDING = -1  # stands where a row has no node
_ROW_TOKENS = 16  # nodes a row: shorter rows copy a note's keys more often, longer ones hold more padding
_ROUND_TO = 8  # row lengths are padded to a multiple of it: oneDNN keeps compiled kernels for every new shape
_CHECKED_NOTES = 5  # scored once more on their own
_LOOKAHEAD = 4  # the first tokens of all labels ride along with the prompt where they are no more than this
# Logits that are converted to float32 together: on a CPU few, so that they stay in its cache
_LOGITS_AT_ONCE = {"cpu": 2_000_000, "cuda": 64_000_000}


@dataclass(frozen=True)
class LabelScores:
    """What a model thinks of every label for every note.

    Args:
        log_likelihoods (`np.ndarray` of shape `(notes, labels)`):
            Log-likelihood of each label with its stop token, in nats. For a label that was left out, the log-likelihood of its
            branch divided by the labels in it: an upper bound on their mean.
        left_out (`np.ndarray` of shape `(notes, labels)`):
            `True` where the label's branch could not hold more than the allowed share and was not followed to its end.
    """

    log_likelihoods: np.ndarray
    left_out: np.ndarray


class LabelTrie:
    """The labels as a tree of tokens, so that what several labels begin with is computed once.

    Node 0 is the root, every other node one token behind its parent. The last token of a label (its stop token) is a leaf:
    it is predicted, never fed.

    Args:
        completions (`Sequence[list[int]]`):
            Token ids of each label, its stop token last.

    Raises:
        [`InputError`]: two labels have the same tokens, or one is empty.
    """

    def __init__(self, completions: Sequence[list[int]]):
        self.tokens, self.parents, self.depths = [-1], [-1], [0]
        self.children: list[list[int]] = [[]]
        self.leaves = []
        for completion in completions:
            node = _ROOT
            for token in completion:
                node = self._child(node, token)
            if node == _ROOT or node in self.leaves:
                raise InputError("two labels of the set have the same tokens, or one has none; rename one")
            self.leaves.append(node)
        self.labels_below = [0] * len(self.tokens)
        for leaf in self.leaves:
            node = leaf
            while node >= _ROOT:
                self.labels_below[node] += 1
                node = self.parents[node]
        # ancestors[v, w]: v sees w, that is, w is v itself or stands above it
        self.ancestors = np.eye(len(self.tokens), dtype=bool)
        for node in range(1, len(self.tokens)):
            self.ancestors[node] |= self.ancestors[self.parents[node]]

    def _child(self, node: int, token: int) -> int:
        for child in self.children[node]:
            if self.tokens[child] == token:
                return child
        self.tokens.append(token)
        self.parents.append(node)
        self.depths.append(self.depths[node] + 1)
        self.children.append([])
        self.children[node].append(len(self.tokens) - 1)
        return len(self.tokens) - 1

    def path(self, node: int) -> list[int]:
        """The nodes from below the root down to a node, itself included."""
        nodes = []
        while node != _ROOT:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def is_leaf(self, node: int) -> bool:
        """Whether a label ends with this node."""
        return not self.children[node]

    def chain(self, node: int) -> list[int]:
        """A node with what must follow it: the nodes down to the next fork or to the last token before a leaf."""
        nodes = [node]
        while len(self.children[nodes[-1]]) == 1 and not self.is_leaf(self.children[nodes[-1]][0]):
            nodes.append(self.children[nodes[-1]][0])
        return nodes


class LabelScorer:
    """Scores a fixed list of labels with one model.

    The beginning that all prompts share comes from a cache; a first pass reads the notes. Further passes feed the likely branches
    of the trie, whole chains at once and several branches a row, each node seeing its note and its ancestors only.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, in evaluation mode; quantised or merged as it likes.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer, for the padding token.
        completions (`Sequence[list[int]]`):
            Token ids of each label, its stop token last.
        left_out_mass (`float`, *optional*, defaults to `1e-6`):
            A branch that cannot hold more than this share of the labels' probability is not followed; 0 follows all.

    Raises:
        [`InputError`]: two labels have the same tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        completions: Sequence[list[int]],
        left_out_mass: float = 1e-6,
    ):
        self.model = model
        self.pad_token_id = tokenizer.pad_token_id
        self.completions = [list(completion) for completion in completions]
        self.trie = LabelTrie(self.completions)
        self.left_out_mass = left_out_mass
        self._checked = False

    def score(
        self,
        prompts: Sequence[list[int]],
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        shared: bool = False,
    ) -> LabelScores:
        """Score every label for every prompt; equal prompts are computed once.

        Args:
            prompts (`Sequence[list[int]]`):
                Token ids of the rendered prompts.
            batch_size (`int`, *optional*, defaults to `32`):
                Prompts a batch.
            on_progress (`Callable[[int], None]`, *optional*):
                Called after every batch with the number of prompts done in it.
            shared (`bool`, *optional*, defaults to `False`):
                All processes are here with the same prompts, and share the batches.

        Returns:
            [`LabelScores`]: rows in the order of `prompts`.

        Raises:
            [`InputError`]: the model attends to fewer tokens than a prompt has, or it cannot take or ignores the mask that keeps
                the labels of a row apart, so that only `decode: generate` works with it.
        """
        _check_window(self.model, max(map(len, prompts), default=0) + max(map(len, self.completions)))
        places: dict[tuple[int, ...], list[int]] = {}
        for index, prompt in enumerate(prompts):
            places.setdefault(tuple(prompt), []).append(index)
        distinct = sorted(places, key=len, reverse=True)  # longest first: memory peaks at once
        log_likelihoods = np.empty((len(prompts), len(self.completions)))
        left_out = np.empty(log_likelihoods.shape, dtype=bool)
        with torch.inference_mode():
            beginning, cache = shared_beginning(self.model, distinct)
            self._check_once(distinct, beginning, cache)
            batches = list(_of_like_length(distinct, beginning, batch_size))
            scored = answer_batches(
                batches,
                lambda batch: self._score_batch(batch, beginning, cache),
                shared,
                lambda batch: on_progress(sum(len(places[prompt]) for prompt in batch)) if on_progress else None,
            )
        for batch, scores in zip(batches, scored, strict=True):
            for row, prompt in enumerate(batch):
                log_likelihoods[places[prompt]] = scores.log_likelihoods[row]
                left_out[places[prompt]] = scores.left_out[row]
        return LabelScores(log_likelihoods, left_out)

    def _score_batch(
        self, batch: Sequence[tuple[int, ...]], beginning: int, cache: DynamicCache | None
    ) -> LabelScores:
        """Score one batch; what a model of another kind raises at its first becomes a line with the mend."""
        try:
            return _BatchOfNotes(self, batch, beginning, cache).score()
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            if self._checked or isinstance(error, torch.OutOfMemoryError):
                raise
            raise InputError(
                f"this model cannot score labels that share a row ({' '.join(str(error).split())[:120]}); "
                "set `decode: generate`"
            ) from error

    def _check_once(self, prompts: Sequence[tuple[int, ...]], beginning: int, cache: DynamicCache | None) -> None:
        """Score the likeliest label of some notes on its own, too; a model that ignores the mask shows here."""
        if self._checked or not prompts:
            return
        notes = [
            prompts[index] for index in np.linspace(0, len(prompts) - 1, min(_CHECKED_NOTES, len(prompts))).astype(int)
        ]
        scored = self._score_batch(notes, beginning, cache).log_likelihoods
        # bfloat16 and quantised logits differ by some hundredths a token, by more on a note that the model is at a loss with, so
        # several notes are asked; labels that see each other differ by whole units nearly everywhere.
        exact = self.model.dtype == torch.float32 and not getattr(self.model, "is_quantized", False)
        compared = []
        for note, row in zip(notes, scored, strict=True):
            best = int(row.argmax())
            alone = float(
                score_separately(self.model, self.pad_token_id, [list(note)], [self.completions[best]])[0, 0]
            )
            allowed = 0.01 if exact else 0.05 * len(self.completions[best]) + 0.02 * abs(alone)
            compared.append((abs(alone - row[best]) / allowed, float(row[best]), alone))
        times_allowed, together, alone = sorted(compared)[len(compared) // 2]
        if times_allowed > 1:
            raise InputError(
                f"this model scores labels that share a row otherwise than alone ({together:.3f} against {alone:.3f}); "
                "set `decode: generate`"
            )
        self._checked = True


class _BatchOfNotes:
    """The notes of one batch on their way through the trie."""

    def __init__(
        self, scorer: LabelScorer, prompts: Sequence[tuple[int, ...]], beginning: int, cache: DynamicCache | None
    ):
        self.scorer, self.trie, self.model = scorer, scorer.trie, scorer.model
        self.prompts, self.beginning = prompts, beginning
        # Log-likelihood of the path down to each node, NaN where it is not known yet
        self.paths = np.full((len(prompts), len(self.trie.tokens)), np.nan)
        self.paths[:, _ROOT] = 0.0
        self.fed = np.zeros(self.paths.shape, dtype=bool)
        # Keys and values of the prompts, with the first tokens of the labels: what every further pass builds on
        self.cache = _selected(cache, [0] * len(prompts), self.model)
        self.key_nodes = np.full((len(prompts), beginning), _ROOT)
        first = [node for node in self.trie.children[_ROOT] if not self.trie.is_leaf(node)]
        self.ahead = first if len(first) <= _LOOKAHEAD else []

    def score(self) -> LabelScores:
        """Feed the prompts, then the likely branches until no other can hold more than the allowed share."""
        self._feed_prompts()
        while branches := [(note, branch) for note in range(len(self.prompts)) for branch in self._branches(note)]:
            self._feed_branches(branches)
        return self._collect()

    def _feed_prompts(self) -> None:
        """One row a note: the rest of its prompt, then the first tokens of the labels."""
        rests = [prompt[self.beginning :] for prompt in self.prompts]
        tokens = [[*rest, *(self.trie.tokens[node] for node in self.ahead)] for rest in rests]
        nodes = [[_ROOT] * len(rest) + self.ahead for rest in rests]
        positions = [
            [*range(self.beginning, len(prompt)), *(len(prompt) for _ in self.ahead)] for prompt in self.prompts
        ]
        wanted = [
            (row, len(rest) - 1 + place, node)
            for row, rest in enumerate(rests)
            for place, node in enumerate((_ROOT, *self.ahead))
        ]
        self.key_nodes = self._run(range(len(rests)), self.key_nodes, self.cache, tokens, nodes, positions, wanted)

    def _branches(self, note: int) -> list[list[int]]:
        """The open branches of one note that matter, each with its chain."""
        known = self.paths[note]
        open_nodes = [
            node for node in np.flatnonzero(~np.isnan(known) & ~self.fed[note]) if not self.trie.is_leaf(node)
        ]
        if not open_nodes:
            return []
        # The labels known so far bound the whole mass from below. While a branch is likelier than all of them, it stands for the
        # mass, and what is put off against it is looked at again once it is known.
        done = [known[leaf] for leaf in self.trie.leaves if not np.isnan(known[leaf])]
        likeliest = max(known[node] for node in open_nodes)
        mass = max(logsumexp(done), likeliest) if done else likeliest
        with np.errstate(divide="ignore"):
            least = mass + np.log(self.scorer.left_out_mass)
        return [self.trie.chain(node) for node in open_nodes if known[node] >= least]

    def _feed_branches(self, branches: Sequence[tuple[int, list[int]]]) -> None:
        """Rows of a few branches of one note each, behind a copy of the note's keys and values.

        A branch brings along the nodes above it that the copy lacks: few tokens, where keeping every row's own history would
        cost more.
        """
        # Note, nodes in order, and those of them whose children are wanted
        rows: list[tuple[int, list[int], set[int]]] = []
        for note, chain in branches:
            path = [node for node in self.trie.path(chain[0])[:-1] if node not in self.ahead]
            for row_note, fed, new in reversed(rows):
                if row_note != note:
                    rows.append((note, [*path, *chain], set(chain)))
                    break
                added = [*(node for node in path if node not in fed), *chain]
                if len(fed) + len(added) <= _ROW_TOKENS:
                    fed.extend(added)
                    new.update(chain)
                    break
            else:
                rows.append((note, [*path, *chain], set(chain)))
        notes = [note for note, _, _ in rows]
        nodes = [fed for _, fed, _ in rows]
        tokens = [[self.trie.tokens[node] for node in fed] for fed in nodes]
        positions = [[len(self.prompts[note]) + self.trie.depths[node] - 1 for node in fed] for note, fed, _ in rows]
        wanted = [
            (row, place, node)
            for row, (_, fed, new) in enumerate(rows)
            for place, node in enumerate(fed)
            if node in new
        ]
        cache = _selected(self.cache, notes, self.model)
        self._run(notes, self.key_nodes[notes], cache, tokens, nodes, positions, wanted)

    def _run(
        self,
        notes: Sequence[int],
        key_nodes: np.ndarray,
        cache: DynamicCache,
        tokens: Sequence[Sequence[int]],
        nodes: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        wanted: Sequence[tuple[int, int, int]],
    ) -> np.ndarray:
        """Run the model on new tokens and record the likelihood of the children of the wanted nodes.

        Args:
            notes (`Sequence[int]`):
                The note of each row.
            key_nodes (`np.ndarray` of shape `(rows, keys)`):
                The node of each key in the cache.
            cache ([`~transformers.DynamicCache`]):
                Keys and values of the rows; grows.
            tokens, nodes, positions (`Sequence[Sequence[int]]`):
                Of each row's new tokens.
            wanted (`Sequence[tuple[int, int, int]]`):
                Row, place in the row, and node of every token whose next token is asked for; parents before children.

        Returns:
            `np.ndarray`: `key_nodes` with the new tokens.
        """
        device = self.model.device
        length = -(-max(map(len, tokens)) // _ROUND_TO) * _ROUND_TO
        nodes = _padded(nodes, length, _PADDING)
        past = key_nodes.shape[1]
        key_nodes = np.concatenate([key_nodes, nodes], axis=1)
        # A token sees what stands above it in the trie, and of its own prompt what came before it. Padding sees the same, unread.
        visible = self.trie.ancestors[nodes[:, :, None], key_nodes[:, None, :]] & (key_nodes != _PADDING)[:, None, :]
        visible[:, :, past:] &= np.tri(length, dtype=bool)
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~torch.from_numpy(visible), torch.finfo(dtype).min)

        # The LM head sees the wanted positions only
        index = torch.tensor([row * length + place for row, place, _ in wanted])
        index = functional.pad(index, (0, -len(wanted) % _ROUND_TO)).to(device)
        with lm_head_input(self.model, at_positions(index)):
            logits = self.model(
                input_ids=torch.from_numpy(_padded(tokens, length, self.scorer.pad_token_id)).to(device),
                position_ids=torch.from_numpy(_padded(positions, length, 0)).to(device),
                attention_mask=mask[:, None].to(device),
                past_key_values=cache,
                use_cache=True,
            ).logits
        logits = logits.reshape(len(index), -1)[: len(wanted)]
        block = max(1, _LOGITS_AT_ONCE["cpu" if device.type == "cpu" else "cuda"] // logits.shape[1])
        totals = torch.cat([part.float().logsumexp(dim=-1) for part in logits.split(block)])
        children = [self.trie.children[node] for _, _, node in wanted]
        at = torch.arange(len(wanted)).repeat_interleave(torch.tensor([len(nodes) for nodes in children])).to(device)
        token_ids = torch.tensor([self.trie.tokens[child] for nodes in children for child in nodes]).to(device)
        found = iter((logits[at, token_ids].float() - totals[at]).double().tolist())
        for (row, _, node), below in zip(wanted, children, strict=True):
            note = notes[row]
            self.fed[note, node] = True
            for child in below:
                self.paths[note, child] = self.paths[note, node] + next(found)
        return key_nodes

    def _collect(self) -> LabelScores:
        """The paths down to the leaves; a label that was not reached gets its share of its branch."""
        leaves = self.trie.leaves
        log_likelihoods = self.paths[:, leaves]
        left_out = np.isnan(log_likelihoods)
        for note, label in zip(*np.nonzero(left_out), strict=True):
            node = leaves[label]
            while np.isnan(self.paths[note, node]):
                node = self.trie.parents[node]
            log_likelihoods[note, label] = self.paths[note, node] - np.log(self.trie.labels_below[node])
        return LabelScores(log_likelihoods, left_out)


def score_separately(
    model: PreTrainedModel,
    pad_token_id: int,
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    batch_size: int = 32,
) -> np.ndarray:
    """Log-likelihood of every label for every prompt, each as a whole sequence of its own: slow, and right by inspection.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, in evaluation mode.
        pad_token_id (`int`):
            Fills the sequences of a batch, on the right.
        prompts (`Sequence[list[int]]`):
            Token ids of the rendered prompts.
        completions (`Sequence[list[int]]`):
            Token ids of each label, its stop token last.
        batch_size (`int`, *optional*, defaults to `32`):
            Sequences a batch.

    Returns:
        `np.ndarray` of shape `(prompts, labels)`: log-likelihoods in nats.
    """
    pairs = [(prompt, completion) for prompt in prompts for completion in completions]
    found = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        length = max(len(prompt) + len(completion) for prompt, completion in batch)
        input_ids = torch.full((len(batch), length), pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for row, (prompt, completion) in enumerate(batch):
            input_ids[row, : len(prompt) + len(completion)] = torch.tensor([*prompt, *completion])
            attention_mask[row, : len(prompt) + len(completion)] = 1
        with torch.inference_mode():
            logits = model(input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device)).logits
        for row, (prompt, completion) in enumerate(batch):
            predicted = logits[row, len(prompt) - 1 : len(prompt) + len(completion) - 1].float().log_softmax(dim=-1)
            found.append(float(predicted[range(len(completion)), completion].sum()))
    return np.array(found).reshape(len(prompts), len(completions))


def _check_window(model: PreTrainedModel, longest: int) -> None:
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if window and longest > window:
        raise InputError(
            f"the model attends to {window} tokens at most and the longest prompt with its label has {longest}; "
            "set `decode: generate`"
        )


def _of_like_length(
    prompts: Sequence[tuple[int, ...]], beginning: int, batch_size: int
) -> Iterator[list[tuple[int, ...]]]:
    """Batches of prompts that need hardly any padding: a new one begins where it would fill over a tenth of the batch."""
    batch, tokens = [], 0
    for prompt in prompts:  # longest first
        longest = len(batch[0]) - beginning if batch else 0
        if batch and (
            len(batch) == batch_size or (len(batch) + 1) * longest > 1.1 * (tokens + len(prompt) - beginning)
        ):
            yield batch
            batch, tokens = [], 0
        batch.append(prompt)
        tokens += len(prompt) - beginning
    if batch:
        yield batch


def _selected(cache: DynamicCache | None, rows: Sequence[int], model: PreTrainedModel) -> DynamicCache:
    """A new cache with copies of the given rows, in order; empty where there is none."""
    selected = DynamicCache(config=model.config)
    if cache is not None:
        index = torch.tensor(rows, device=model.device)
        for number, layer in enumerate(cache.layers):
            selected.update(layer.keys[index], layer.values[index], number)
    return selected


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> np.ndarray:
    padded = np.full((len(rows), length), value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded
