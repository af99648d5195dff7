"""The samples as data: what each is, what it shows, how large. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from diag.loading.samples.words import BOS, EOS, IMAGE, PAD, VOCABULARY

_MIB = 2**20


@dataclass(frozen=True)
class Sample:
    """A model as a recipe; `model_type` is empty where the weights are real and come from elsewhere.

    `parameters` counts a tie once; `nbytes` are the weights on disk; `shard_nbytes` is the size at which a new
    safetensors file begins. A test compares both numbers with the made checkpoint. `embedding_std` is small enough for
    the layers to outweigh the embedding, so that the model does not just repeat its last token.
    """

    name: str
    architecture: str
    shows: str
    parameters: int
    nbytes: int
    model_type: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    dtype: str = "float32"
    shard_nbytes: int = _MIB // 4
    embedding_std: float = 0.4


_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_LAYERS = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
_TEXT = _IDS | _LAYERS | {"vocab_size": VOCABULARY, "max_position_embeddings": 256}
_ROPE_DECODER = _TEXT | {"num_key_value_heads": 2}
_CLIP = _LAYERS | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, "projection_dim": 32}
_IMAGE = {"vision_config": _CLIP, "image_token_index": IMAGE, "image_seq_length": 16}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ATTENTIONS = ["sliding_attention", "sliding_attention", "full_attention"] * 2
_SLIDING = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "layer_types": _ATTENTIONS}
_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 4, "num_decoder_layers": 4}

_ALL = (
    Sample(
        "tiny",
        "LlamaForCausalLM",
        "the usual decoder: RMSNorm, no biases, tied embeddings, six blocks in several shards",
        328_512,
        1_314_048,
        model_type="llama",
        config=_ROPE_DECODER | {"num_hidden_layers": 6, "intermediate_size": 192, "tie_word_embeddings": True},
    ),
    Sample(
        "tiny-gpt2",
        "GPT2LMHeadModel",
        "biases everywhere, Conv1D instead of Linear, learned positions, tied embeddings",
        249_216,
        996_864,
        model_type="gpt2",
        config=_IDS | {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256},
    ),
    Sample(
        "tiny-bert",
        "BertModel",
        "an encoder without a head: LayerNorm with biases, integer buffers that no checkpoint holds",
        187_456,
        749_824,
        model_type="bert",
        config=_TEXT,
    ),
    Sample(
        "tiny-t5",
        "T5ForConditionalGeneration",
        "encoder and decoder, one embedding tied under four names, relative position tables",
        362_112,
        1_448_448,
        model_type="t5",
        config=_T5
        | {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD},
        embedding_std=1.0,
    ),
    Sample(
        "tiny-mixtral",
        "MixtralForCausalLM",
        "a mixture of experts: packed in memory as three-dimensional parameters, one by one in the files",
        411_200,
        1_644_800,
        model_type="mixtral",
        config=_ROPE_DECODER | _EXPERTS | {"intermediate_size": 96, "tie_word_embeddings": False},
    ),
    Sample(
        "tiny-gemma3",
        "Gemma3ForCausalLM",
        "buffers that no checkpoint holds and the answer needs: embed_scale and two sets of inv_freq",
        255_744,
        1_022_976,
        model_type="gemma3_text",
        config=_ROPE_DECODER | _SLIDING | {"num_hidden_layers": 6, "tie_word_embeddings": True},
        embedding_std=0.1,
    ),
    Sample(
        "tiny-qwen2",
        "Qwen2ForCausalLM",
        "an untied head, biases on q, k and v alone, stored in bfloat16",
        214_080,
        428_160,
        model_type="qwen2",
        config=_ROPE_DECODER | {"tie_word_embeddings": False},
        dtype="bfloat16",
        shard_nbytes=_MIB // 8,
    ),
    Sample(
        "tiny-llava",
        "LlavaForConditionalGeneration",
        "vision and language: a CLIP tower, a projector and a Llama, with its processor",
        369_472,
        1_477_888,
        model_type="llava",
        config=_IDS | _IMAGE | {"text_config": _ROPE_DECODER | {"model_type": "llama"}, "tie_word_embeddings": False},
    ),
    Sample(
        "smollm2",
        "LlamaForCausalLM",
        "real weights: SmolLM2-135M-Instruct, which knows that the capital of France is Paris",
        134_515_008,
        538_060_032,
        shard_nbytes=150_000_000,
    ),
)

SAMPLES: Mapping[str, Sample] = {sample.name: sample for sample in _ALL}
