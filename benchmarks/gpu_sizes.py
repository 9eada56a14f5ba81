"""Sizes of gpu.py: the real run on one GPU of 80 GB, and its rehearsal on a CPU."""

from gpu_measuring import Size
from gpu_phases import BIOGPT, MEDITRON, SMOLLM2

from radrecipes.planning.base_shapes import SHAPES

# In addition to the sizes of tensors, what their speed depends on.
_MEDITRON_SHAPE = SHAPES["epfl-llm/meditron-7b"] | {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5}
_BIOGPT_SHAPE = SHAPES["microsoft/BioGPT-Large"]
_TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}

FULL = Size(
    on_gpu=True,
    shapes={MEDITRON: _MEDITRON_SHAPE, BIOGPT: _BIOGPT_SHAPE},
    notes=30_000,
    tokenised=30_000,
    train_seconds=20.0,
    lora_batch=64,
    batches=(16, 32, 128, 256, 512),
    row_lengths=(768, 1024, 2048),
    answered=256,
    scoring_batches=(32, 128),
    product_tokens=(1024, 4096, 8192),
)
REHEARSAL = Size(
    on_gpu=False,
    shapes={
        MEDITRON: {**_MEDITRON_SHAPE, **_TINY, "num_key_value_heads": 4, "vocab_size": 4_001},
        BIOGPT: _BIOGPT_SHAPE | _TINY,
        SMOLLM2: {**_MEDITRON_SHAPE, **_TINY, "num_key_value_heads": 2, "vocab_size": 49_152},
    },
    notes=30_000,
    tokenised=240,
    train_seconds=0.0,
    lora_batch=16,
    batches=(4, 8),
    row_lengths=(512,),
    answered=12,
    scoring_batches=(8,),
    product_tokens=(64,),
    real_words=("--model_name_or_path", SMOLLM2, "--max_steps", "2"),
    report_words=("--global_batch_size", "4"),
    real_rows=16,
)
