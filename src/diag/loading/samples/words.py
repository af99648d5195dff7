"""The small tokenizer of the made samples: byte-level BPE, so every text has tokens and comes back as it was."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 512
PAD, BOS, EOS, UNKNOWN, IMAGE = range(5)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")

# Words that become one token each, most important first; the pieces on the way to them are tokens too.
_WORDS = """the of and to in a is that it was for on with as be at by this from or an are not have which one all
 capital France Paris model device layer weight memory tensor meta disk host offload answer question what where when
 there their were been has had will would can could more other some time than then into only over also new because
 any these our work first well way even want give day most us error load loads map cause fix proof true false none
 number small large same right wrong hook tie"""


def tokenizer() -> PreTrainedTokenizerFast:
    """512 tokens: five special ones, 256 bytes, then merges read off a fixed list of words. The same on every run."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = _vocabulary(sorted(pre_tokenizers.ByteLevel.alphabet()))
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        unk_token=SPECIAL[UNKNOWN],
        additional_special_tokens=[SPECIAL[IMAGE]],
        model_max_length=256,
    )


def _vocabulary(alphabet: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token ids, and the merges that build each word from left to right, with its leading space first."""
    tokens = dict.fromkeys([*SPECIAL, *alphabet])
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS.split():
        pieces = list(itertools.accumulate(f"Ġ{word}"))
        for left, right in itertools.pairwise(pieces):
            if right not in tokens and len(tokens) < VOCABULARY:
                tokens[right] = None
                merges[left, right[len(left) :]] = None
    return {token: index for index, token in enumerate(tokens)}, list(merges)
