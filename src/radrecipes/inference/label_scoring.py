"""Label scoring: the log-likelihood of every label of a list, from one pass over the prompt and a trie of the labels."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as functional
from scipy.special import logsumexp
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from radrecipes.errors import InputError
from radrecipes.inference.generation import shared_prefix
from radrecipes.inference.prompt_scorer import ROUND_TO, LabelScores, PromptScorer, padded, rows_of_cache
from radrecipes.models.base import carries_state
from radrecipes.models.lm_head import at_positions, lm_head_input

_ROOT = 0  # the trie's root represents the prompt itself
_PADDING = -1  # where a row has no node
_ROW_TOKENS = 16  # nodes per row: shorter rows copy a note's keys more often, longer ones contain more padding
_CHECKED_NOTES = 5  # scored again separately
_SEPARATE_ROWS = 8  # sequences in a batch of labels that are scored separately, with logits at every position
_LOOKAHEAD = 4  # the labels' first tokens are fed with the prompt if there are at most this many
# Logits that are converted to float32 together: few on a CPU, so that they stay in its cache
_LOGITS_AT_ONCE = {"cpu": 2_000_000, "cuda": 64_000_000}


class LabelTrie:
    """The labels as a tree of tokens, so that shared prefixes are computed once.

    Node 0 is the root, every other node the token that follows its parent. The last token of a label (its stop token) is a
    leaf: it is predicted, never fed.
    """

    def __init__(self, completions: Sequence[list[int]]):
        self.tokens = [-1]
        # The nodes from the root to each node, both included
        self.paths: list[list[int]] = [[_ROOT]]
        self.children: list[list[int]] = [[]]
        self.leaves = []
        for completion in completions:
            node = _ROOT
            for token in completion:
                node = self._child(node, token)
            if node == _ROOT or node in self.leaves:
                raise InputError("two labels of the set have the same tokens, or one has none; rename one")
            self.leaves.append(node)
        self.labels_below = np.bincount(np.concatenate([self.paths[leaf] for leaf in self.leaves]))
        self.has_children = np.array(list(map(bool, self.children)))
        # ancestors[v, w]: v attends to w, that is, w is v itself or an ancestor of it
        self.ancestors = np.zeros((len(self.tokens), len(self.tokens)), dtype=bool)
        for node, path in enumerate(self.paths):
            self.ancestors[node, path] = True

    def _child(self, node: int, token: int) -> int:
        for child in self.children[node]:
            if self.tokens[child] == token:
                return child
        new = len(self.tokens)
        self.tokens.append(token)
        self.paths.append([*self.paths[node], new])
        self.children.append([])
        self.children[node].append(new)
        return new

    def is_leaf(self, node: int) -> bool:
        """Whether a label ends with this node."""
        return not self.children[node]

    def chain(self, node: int) -> list[int]:
        """A node and its only possible successors, down to the next fork or to the last token before a leaf."""
        nodes = [node]
        while len(self.children[nodes[-1]]) == 1 and not self.is_leaf(self.children[nodes[-1]][0]):
            nodes.append(self.children[nodes[-1]][0])
        return nodes


class LabelScorer(PromptScorer):
    """Scores a fixed list of labels with one model, which may be quantised, merged or a PEFT model.

    A model that carries a state scores each label separately: slower, once per label. Otherwise the shared prefix of all prompts
    comes from a cache; a first pass reads the notes. Further passes feed the likely branches
    of the trie, whole chains at once and several branches per row, where each node attends only to its note and its ancestors.

    Args:
        completions: Token ids of each label, its stop token last.
        left_out_mass: A branch that cannot contain more than this fraction of the labels' probability is pruned; 0 prunes nothing.
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
        self.labels = len(self.completions)
        self.trie = LabelTrie(self.completions)
        self.left_out_mass = left_out_mass
        # Labels in one row, and notes after one prefix, are separated by masks and caches, which such a model does not heed.
        self._separately = carries_state(model.config)
        self._checked = self._separately
        window = getattr(model.config.get_text_config(), "sliding_window", None)
        self._window = window if window and not self._separately else math.inf
        self._longest_label = max(map(len, self.completions))

    @property
    def longest_prompt(self) -> float:
        """Tokens of the longest prompt that fits into the model's attention window together with any label."""
        return self._window - self._longest_label

    def _shared(self, prompts: Sequence[tuple[int, ...]]) -> tuple[int, DynamicCache | None]:
        longest = max(map(len, prompts), default=0)
        if longest > self.longest_prompt:
            raise InputError(
                f"the model attends to {self._window} tokens at most, and the longest prompt with its label has "
                f"{longest + self._longest_label}; set `decode: generate`"
            )
        prefix, cache = shared_prefix(self.model, prompts)
        self._check_once(prompts, prefix, cache)
        return prefix, cache

    def _score_batch(self, batch: Sequence[tuple[int, ...]], prefix: int, cache: DynamicCache | None) -> LabelScores:
        """Score one batch; what an unsupported model raises at its first batch becomes an [`InputError`]."""
        if self._separately:
            prompts = [list(prompt) for prompt in batch]
            found = score_separately(self.model, self.pad_token_id, prompts, self.completions, _SEPARATE_ROWS)
            return LabelScores(found, np.zeros(found.shape, dtype=bool))
        try:
            return _BatchOfNotes(self, batch, prefix, cache).score()
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            if self._checked or isinstance(error, torch.OutOfMemoryError):
                raise
            raise InputError(
                f"this model does not support several labels in a row ({' '.join(str(error).split())[:120]}); "
                "set `decode: generate`"
            ) from error

    def _check_once(self, prompts: Sequence[tuple[int, ...]], prefix: int, cache: DynamicCache | None) -> None:
        """Compare the most likely label of some notes with its separate score, to detect a model that ignores the mask."""
        if self._checked or not prompts:
            return
        notes = [
            prompts[index] for index in np.linspace(0, len(prompts) - 1, min(_CHECKED_NOTES, len(prompts))).astype(int)
        ]
        scored = self._score_batch(notes, prefix, cache).log_likelihoods
        # bfloat16 and quantised logits differ by a few hundredths per token, and by more on notes where the model is unsure, so the
        # median over several notes counts; labels that attend to each other differ by whole units almost everywhere.
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
                f"this model scores several labels in a row differently from a single one ({together:.3f} against {alone:.3f}); "
                "set `decode: generate`"
            )
        self._checked = True


class _BatchOfNotes:
    """The search state of one batch of notes."""

    def __init__(
        self, scorer: LabelScorer, prompts: Sequence[tuple[int, ...]], prefix: int, cache: DynamicCache | None
    ):
        self.scorer, self.trie, self.model = scorer, scorer.trie, scorer.model
        self.prompts, self.prefix = prompts, prefix
        # Log-likelihood of the path down to each node, NaN if not known yet
        self.paths = np.full((len(prompts), len(self.trie.tokens)), np.nan)
        self.paths[:, _ROOT] = 0.0
        self.fed = np.zeros(self.paths.shape, dtype=bool)
        # Keys and values of the prompts with the first tokens of the labels, on which every further pass builds
        self.cache = rows_of_cache(cache, [0] * len(prompts), self.model)
        self.key_nodes = np.full((len(prompts), prefix), _ROOT)
        first = [node for node in self.trie.children[_ROOT] if not self.trie.is_leaf(node)]
        self.ahead = first if len(first) <= _LOOKAHEAD else []

    def score(self) -> LabelScores:
        """Feed the prompts, then the likely branches until all others can be pruned."""
        self._feed_prompts()
        while branches := [(note, branch) for note in range(len(self.prompts)) for branch in self._branches(note)]:
            self._feed_branches(branches)
        return self._collect()

    def _feed_prompts(self) -> None:
        """One row per note: the rest of its prompt, then the first tokens of the labels."""
        rests = [prompt[self.prefix :] for prompt in self.prompts]
        tokens = [[*rest, *(self.trie.tokens[node] for node in self.ahead)] for rest in rests]
        nodes = [[_ROOT] * len(rest) + self.ahead for rest in rests]
        positions = [[*range(self.prefix, len(prompt)), *(len(prompt) for _ in self.ahead)] for prompt in self.prompts]
        wanted = [
            (row, len(rest) - 1 + place, node)
            for row, rest in enumerate(rests)
            for place, node in enumerate((_ROOT, *self.ahead))
        ]
        self.key_nodes = self._run(range(len(rests)), self.key_nodes, self.cache, tokens, nodes, positions, wanted)

    def _branches(self, note: int) -> list[list[int]]:
        """The chains of one note that must be fed next."""
        known = self.paths[note]
        open_nodes = np.flatnonzero(~np.isnan(known) & ~self.fed[note] & self.trie.has_children)
        if not len(open_nodes):
            return []
        # The known labels bound the total mass from below. While an open branch is likelier than all of them, it is the bound
        # instead, and branches postponed because of it are examined again once it is known.
        done = known[self.trie.leaves]
        done = done[~np.isnan(done)]
        likeliest = known[open_nodes].max()
        mass = max(logsumexp(done), likeliest) if len(done) else likeliest
        with np.errstate(divide="ignore"):
            least = mass + np.log(self.scorer.left_out_mass)
        return [self.trie.chain(node) for node in open_nodes if known[node] >= least]

    def _feed_branches(self, branches: Sequence[tuple[int, list[int]]]) -> None:
        """Feed a few branches of one note per row, after a copy of the note's keys and values.

        The ancestors of a branch that are not in the copy are fed again: few tokens, cheaper than a cache per row.
        """
        # Note, nodes in order, and the nodes whose children are wanted
        rows: list[tuple[int, list[int], set[int]]] = []
        for note, chain in branches:
            path = [node for node in self.trie.paths[chain[0]][1:-1] if node not in self.ahead]
            for _, fed, new in itertools.takewhile(lambda row, note=note: row[0] == note, reversed(rows)):
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
        positions = [
            [len(self.prompts[note]) + len(self.trie.paths[node]) - 2 for node in fed] for note, fed, _ in rows
        ]
        wanted = [
            (row, place, node)
            for row, (_, fed, new) in enumerate(rows)
            for place, node in enumerate(fed)
            if node in new
        ]
        cache = rows_of_cache(self.cache, notes, self.model)
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
        """Run the model on new tokens and record the log-likelihoods of the children of the wanted nodes.

        `key_nodes` contains the node of each key in the cache, shape `(rows, keys)`, and is returned extended by the new tokens;
        `wanted` contains row, position in the row and node, parents before children.
        """
        device = self.model.device
        length = -(-max(map(len, tokens)) // ROUND_TO) * ROUND_TO
        nodes = padded(nodes, length, _PADDING)
        past = key_nodes.shape[1]
        key_nodes = np.concatenate([key_nodes, nodes], axis=1)
        # A token attends to its ancestors in the trie and to the earlier tokens of its prompt. So does padding, which is not read.
        visible = self.trie.ancestors[nodes[:, :, None], key_nodes[:, None, :]] & (key_nodes != _PADDING)[:, None, :]
        visible[:, :, past:] &= np.tri(length, dtype=bool)
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill_(~torch.from_numpy(visible), torch.finfo(dtype).min)

        # The LM head sees the wanted positions only
        index = torch.tensor([row * length + place for row, place, _ in wanted])
        index = functional.pad(index, (0, -len(wanted) % ROUND_TO)).to(device)
        with lm_head_input(self.model, at_positions(index)):
            logits = self.model(
                input_ids=torch.from_numpy(padded(tokens, length, self.scorer.pad_token_id)).to(device),
                position_ids=torch.from_numpy(padded(positions, length, 0)).to(device),
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
        """The log-likelihoods of the leaves; a pruned label gets an equal part of its branch."""
        shares = self.paths - np.log(self.trie.labels_below)
        for node, path in enumerate(self.trie.paths[1:], start=1):  # parents come before their children
            unknown = np.isnan(shares[:, node])
            shares[unknown, node] = shares[unknown, path[-2]]
        leaves = self.trie.leaves
        return LabelScores(shares[:, leaves], np.isnan(self.paths[:, leaves]))


def score_separately(
    model: PreTrainedModel,
    pad_token_id: int,
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    batch_size: int = 32,
) -> np.ndarray:
    """Log-likelihoods of shape `(prompts, labels)`, each label as a separate sequence: slow, but obviously correct."""
    pairs = [(prompt, completion) for prompt in prompts for completion in completions]
    found = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        rows = [[*prompt, *completion] for prompt, completion in batch]
        length = max(map(len, rows))
        input_ids = torch.from_numpy(padded(rows, length, pad_token_id))
        attention_mask = torch.from_numpy(padded([[1] * len(row) for row in rows], length, 0))
        with torch.inference_mode():
            logits = model(input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device)).logits
        for row, (prompt, completion) in enumerate(batch):
            predicted = logits[row, len(prompt) - 1 : len(prompt) + len(completion) - 1].float().log_softmax(dim=-1)
            found.append(float(predicted[range(len(completion)), completion].sum()))
    return np.array(found).reshape(len(prompts), len(completions))
