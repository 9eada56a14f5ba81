"""Label scoring: how likely a model holds every label of a list, from one pass over the prompt and a trie of the labels."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from radrecipes.batching import divide_into_rows
from radrecipes.errors import InputError
from radrecipes.inference import shared_beginning

_ROOT = 0  # the trie's root stands for the prompt itself
_BEGINNING, _PADDING = -1, -2  # owners of keys that are no note's own
_ROW_TOKENS = 384  # longest row to aim for: attention grows with its square
_ROUND_TO = 16  # row lengths are padded to a multiple of it: oneDNN keeps compiled kernels for every new shape
_LOOKAHEAD = 4  # the first tokens of all labels ride along with the prompt where they are no more than this
_LARGEST_LOGITS = 32_000_000  # entries that are converted to float32 at once


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

    Several notes share a row: the beginning that all prompts share comes from a cache, each note sees it and itself, each node of
    the trie sees its note and its ancestors. Nodes are fed in few passes, whole chains at once, the likely branches only.

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
    ) -> LabelScores:
        """Score every label for every prompt; equal prompts are computed once.

        Args:
            prompts (`Sequence[list[int]]`):
                Token ids of the rendered prompts.
            batch_size (`int`, *optional*, defaults to `32`):
                Prompts a batch.
            on_progress (`Callable[[int], None]`, *optional*):
                Called after every batch with the number of prompts done in it.

        Returns:
            [`LabelScores`]: rows in the order of `prompts`.

        Raises:
            [`InputError`]: the model attends to fewer tokens than a prompt has, or it ignores the mask that keeps the notes of
                a row apart, so that only `decode: generate` works with it.
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
            for start in range(0, len(distinct), batch_size):
                batch = distinct[start : start + batch_size]
                scores = _BatchOfNotes(self, batch, beginning, cache).score()
                for row, prompt in enumerate(batch):
                    log_likelihoods[places[prompt]] = scores.log_likelihoods[row]
                    left_out[places[prompt]] = scores.left_out[row]
                self._check_once(batch[-1], scores.log_likelihoods[-1])
                if on_progress:
                    on_progress(sum(len(places[prompt]) for prompt in batch))
        return LabelScores(log_likelihoods, left_out)

    def _check_once(self, prompt: tuple[int, ...], scored: np.ndarray) -> None:
        """Score the likeliest label of the last note of a row on its own; a model that ignores the mask shows here."""
        if self._checked:
            return
        best = int(scored.argmax())
        alone = float(score_separately(self.model, self.pad_token_id, [list(prompt)], [self.completions[best]])[0, 0])
        # bfloat16 logits differ by some hundredths a token; notes that see each other differ by whole units.
        allowed = 0.05 * len(self.completions[best]) + 0.02 * abs(alone) if self.model.dtype != torch.float32 else 0.01
        if abs(alone - scored[best]) > allowed:
            raise InputError(
                f"this model scores notes that share a row otherwise than alone ({scored[best]:.3f} against {alone:.3f}); "
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
        rests = [len(prompt) - beginning for prompt in prompts]
        self.rows = divide_into_rows(rests, 0, _ROW_TOKENS, _ROUND_TO)
        row_count = len(self.rows)
        self.cache = DynamicCache(config=self.model.config) if cache is None else _repeated(cache, row_count)
        self.key_owners = np.full((row_count, beginning), _BEGINNING)
        self.key_nodes = np.zeros((row_count, beginning), dtype=np.int64)
        # Log-likelihood of the path down to each node, NaN where it is not known yet
        self.paths = np.full((len(prompts), len(self.trie.tokens)), np.nan)
        self.paths[:, _ROOT] = 0.0
        self.fed = np.zeros(self.paths.shape, dtype=bool)

    def score(self) -> LabelScores:
        """Feed the prompts, then the likely branches until no other can hold more than the allowed share."""
        first = [node for node in self.trie.children[_ROOT] if not self.trie.is_leaf(node)]
        ahead = first if len(first) <= _LOOKAHEAD else []
        self._feed([[_ROOT, *ahead]] * len(self.prompts))
        while any(branches := [self._branches(note) for note in range(len(self.prompts))]):
            self._feed(branches)
        return self._collect()

    def _branches(self, note: int) -> list[int]:
        """Nodes to feed next for one note: the open branches that matter, each with its chain."""
        known = self.paths[note]
        reached = np.flatnonzero(~np.isnan(known) & ~self.fed[note])
        open_nodes = [node for node in reached if not self.trie.is_leaf(node)]
        if not open_nodes:
            return []
        # The labels known so far bound the whole mass from below. While a branch is likelier than all of them, it stands for the
        # mass, and what is put off against it is looked at again once it is known.
        done = [known[leaf] for leaf in self.trie.leaves if not np.isnan(known[leaf])]
        likeliest = max(known[node] for node in open_nodes)
        mass = max(logsumexp(done), likeliest) if done else likeliest
        with np.errstate(divide="ignore"):
            least = mass + np.log(self.scorer.left_out_mass)
        chosen = [node for node in open_nodes if known[node] >= least]
        return [node for branch in chosen for node in self.trie.chain(branch)]

    def _feed(self, nodes_of_note: Sequence[Sequence[int]]) -> None:
        """Run the model on the given nodes of each note and record the likelihood of their children."""
        self._drop_rows_without(nodes_of_note)
        tokens, owners, nodes, positions = [], [], [], []
        for row in self.rows:
            for column in (tokens, owners, nodes, positions):
                column.append([])
            for note in row:
                prompt = self.prompts[note]
                for node in nodes_of_note[note]:
                    if node == _ROOT:
                        fed = range(self.beginning, len(prompt))
                        tokens[-1].extend(prompt[self.beginning :])
                    else:
                        fed = [len(prompt) + self.trie.depths[node] - 1]
                        tokens[-1].append(self.trie.tokens[node])
                    positions[-1].extend(fed)
                    owners[-1].extend([note] * len(fed))
                    nodes[-1].extend([node] * len(fed))
        length = -(-max(map(len, tokens)) // _ROUND_TO) * _ROUND_TO
        tokens = _padded(tokens, length, self.scorer.pad_token_id)
        positions = _padded(positions, length, 0)
        owners, nodes = _padded(owners, length, _PADDING), _padded(nodes, length, _ROOT)

        # Where a child is predicted: at every fed node, for a prompt at its last token
        is_last = np.ones(owners.shape, dtype=bool)
        is_last[:, :-1] = (owners[:, :-1] != owners[:, 1:]) | (nodes[:, :-1] != nodes[:, 1:])
        wanted = np.flatnonzero(is_last & (owners != _PADDING))
        wanted_notes, wanted_nodes = owners.ravel()[wanted], nodes.ravel()[wanted]
        log_likelihoods = self._run(tokens, positions, self._mask(owners, nodes), wanted, wanted_nodes)

        # Parents come before their children in every row, so their paths are known by then
        for note, node, found in zip(wanted_notes, wanted_nodes, log_likelihoods, strict=True):
            self.fed[note, node] = True
            self.paths[note, self.trie.children[node]] = self.paths[note, node] + found

    def _drop_rows_without(self, nodes_of_note: Sequence[Sequence[int]]) -> None:
        """Leave out the rows whose notes are all done."""
        keep = [index for index, row in enumerate(self.rows) if any(nodes_of_note[note] for note in row)]
        if len(keep) < len(self.rows):
            self.rows = [self.rows[index] for index in keep]
            self.cache.batch_select_indices(torch.tensor(keep, device=self.model.device))
            self.key_owners, self.key_nodes = self.key_owners[keep], self.key_nodes[keep]

    def _mask(self, owners: np.ndarray, nodes: np.ndarray) -> torch.Tensor:
        """Additive attention mask `(rows, 1, queries, keys)` of the new tokens; they join the keys."""
        past = self.key_owners.shape[1]
        self.key_owners = np.concatenate([self.key_owners, owners], axis=1)
        self.key_nodes = np.concatenate([self.key_nodes, nodes], axis=1)
        visible = self.trie.ancestors[nodes[:, :, None], self.key_nodes[:, None, :]]
        visible &= owners[:, :, None] == self.key_owners[:, None, :]
        visible[:, :, past:] &= np.tri(owners.shape[1], dtype=bool)
        visible |= (self.key_owners == _BEGINNING)[:, None, :]
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~torch.from_numpy(visible), torch.finfo(dtype).min)
        return mask[:, None].to(self.model.device)

    def _run(
        self,
        tokens: np.ndarray,
        positions: np.ndarray,
        mask: torch.Tensor,
        wanted: np.ndarray,
        wanted_nodes: np.ndarray,
    ) -> list[np.ndarray]:
        """Log-likelihoods of the children of each wanted position; the LM head sees these positions only."""
        device = self.model.device
        fill = -len(wanted) % _ROUND_TO
        index = torch.from_numpy(np.pad(wanted, (0, fill))).to(device)
        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(lambda module, args: (args[0].flatten(0, 1)[index],))
        try:
            logits = self.model(
                input_ids=torch.from_numpy(tokens).to(device),
                position_ids=torch.from_numpy(positions).to(device),
                attention_mask=mask,
                past_key_values=self.cache,
                use_cache=True,
            ).logits
        finally:
            handle.remove()
        logits = logits.reshape(len(index), -1)[: len(wanted)]
        block = max(1, _LARGEST_LOGITS // logits.shape[1])
        totals = torch.cat([part.float().logsumexp(dim=-1) for part in logits.split(block)])
        children = [self.trie.children[node] for node in wanted_nodes]
        sizes = [len(nodes) for nodes in children]
        at = torch.arange(len(wanted)).repeat_interleave(torch.tensor(sizes)).to(device)
        token_ids = torch.tensor([self.trie.tokens[child] for nodes in children for child in nodes]).to(device)
        found = (logits[at, token_ids].float() - totals[at]).double().cpu().numpy()
        return np.split(found, np.cumsum(sizes)[:-1])

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


def _repeated(cache: DynamicCache, times: int) -> DynamicCache:
    """A copy of the beginning's cache for every row."""
    repeated = copy.deepcopy(cache)
    repeated.batch_repeat_interleave(times)
    return repeated


def _padded(rows: Sequence[Sequence[int]], length: int, value: int) -> np.ndarray:
    padded = np.full((len(rows), length), value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return padded
