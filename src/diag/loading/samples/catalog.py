"""The samples as data: what each is, what it shows, how large. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from diag.loading.samples.words import BOS, EOS, IMAGE, PAD, VOCABULARY

_MIB = 2**20
_ITEM_NBYTES = {"float32": 4, "bfloat16": 2}
_SHOWS = {
    "tiny": "the usual decoder: RMSNorm, no biases, tied embeddings, six blocks in several shards",
    "tiny-gpt2": "biases everywhere, Conv1D instead of Linear, learned positions, tied embeddings",
    "tiny-bert": "an encoder without a head: LayerNorm with biases, integer buffers that no checkpoint holds",
    "tiny-t5": "encoder and decoder, one embedding tied under four names, relative position tables",
    "tiny-mixtral": "a mixture of experts: packed in memory as three-dimensional parameters, one by one in the files",
    "tiny-gemma3": "buffers that no checkpoint holds and the answer needs: embed_scale and two sets of inv_freq",
    "tiny-qwen2": "an untied head, biases on q, k and v alone, stored in bfloat16",
    "tiny-llava": "vision and language: a CLIP tower, a projector and a Llama, with its processor",
    "smollm2": "real weights: SmolLM2-135M-Instruct, which knows that the capital of France is Paris",
}


@dataclass(frozen=True)
class Sample:
    """A model as a recipe; `config` is empty where the weights are real and come from elsewhere.

    `parameters` counts a tie once, and a test compares it with the made checkpoint; `shard_nbytes` is the size at which
    a new safetensors file begins. `embedding_std` is small enough for the layers to outweigh the embedding, so that the
    model does not just repeat its last token.
    """

    name: str
    architecture: str
    parameters: int
    config: Mapping[str, object] = field(default_factory=dict)
    dtype: str = "float32"
    shard_nbytes: int = _MIB // 4
    embedding_std: float = 0.4

    @property
    def shows(self) -> str:
        return _SHOWS[self.name]

    @cached_property
    def nbytes(self) -> int:
        """Of the weights on disk."""
        return self.parameters * _ITEM_NBYTES[self.dtype]


_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_LAYERS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
_TEXT = _IDS | _LAYERS | {"vocab_size": VOCABULARY, "max_position_embeddings": 256}
_ROPE_DECODER = _TEXT | {"num_key_value_heads": 2}
_SIX_BLOCKS = {"num_hidden_layers": 6, "tie_word_embeddings": True}

_LLAMA = _ROPE_DECODER | {"model_type": "llama"}
_GPT2 = _IDS | {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256}
_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 4, "num_decoder_layers": 4}
_T5 |= {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 96, "tie_word_embeddings": False}
_ATTENTIONS = ["sliding_attention", "sliding_attention", "full_attention"] * 2
_SLIDING = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "layer_types": _ATTENTIONS}
_GEMMA3 = _ROPE_DECODER | _SIX_BLOCKS | _SLIDING | {"model_type": "gemma3_text"}
_QWEN2 = _ROPE_DECODER | {"model_type": "qwen2", "tie_word_embeddings": False}
_CLIP = _LAYERS | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "projection_dim": 32}
_IMAGE = {"vision_config": _CLIP, "image_token_index": IMAGE, "image_seq_length": 16}
_LLAVA = _IDS | _IMAGE | {"model_type": "llava", "text_config": _LLAMA, "tie_word_embeddings": False}

_ALL = (
    Sample("tiny", "LlamaForCausalLM", 328_512, _LLAMA | _SIX_BLOCKS | {"intermediate_size": 192}),
    Sample("tiny-gpt2", "GPT2LMHeadModel", 249_216, _GPT2 | {"model_type": "gpt2"}),
    Sample("tiny-bert", "BertModel", 187_456, _TEXT | {"model_type": "bert"}),
    Sample("tiny-t5", "T5ForConditionalGeneration", 362_112, _T5 | {"model_type": "t5"}, embedding_std=1.0),
    Sample("tiny-mixtral", "MixtralForCausalLM", 411_200, _ROPE_DECODER | _EXPERTS | {"model_type": "mixtral"}),
    Sample("tiny-gemma3", "Gemma3ForCausalLM", 255_744, _GEMMA3, embedding_std=0.1),
    Sample("tiny-qwen2", "Qwen2ForCausalLM", 214_080, _QWEN2, "bfloat16", shard_nbytes=_MIB // 8),
    Sample("tiny-llava", "LlavaForConditionalGeneration", 369_472, _LLAVA),
    Sample("smollm2", "LlamaForCausalLM", 134_515_008, shard_nbytes=150_000_000),
)

SAMPLES: Mapping[str, Sample] = {sample.name: sample for sample in _ALL}
