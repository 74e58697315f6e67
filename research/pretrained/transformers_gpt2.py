"""GPT-2 of transformers: `GPT2LMHeadModel`, and `GPT2Model`, which differ in the names alone, for the head is tied.

Its layers are `Conv1D`s, whose kernels are (in, out) as ours, and queries, keys and values are one layer.
"""

from collections.abc import Iterator

from research.models import GPT
from research.pretrained.about import CALLED, About
from research.pretrained.layout import EMBEDDING, NORM, Kind, Layout, Leaf, Row, blocks, in_thirds, layers
from research.spec import Spec

CONV1D: Kind = (Leaf("weight", "kernel"), Leaf("bias", "bias"))
THIRDS = in_thirds(-1)

ENDS = {
    "transformer.wte": ("tokens", EMBEDDING),
    "transformer.wpe": ("positions", EMBEDDING),
    "transformer.ln_f": ("norm", NORM),
}
BLOCK = {
    "ln_1": ("norm_0", NORM),
    "attn.c_proj": ("attention/output", CONV1D),
    "ln_2": ("norm_1", NORM),
    "mlp.c_fc": ("dense_0", CONV1D),
    "mlp.c_proj": ("dense_1", CONV1D),
}


def _rows(model: GPT) -> Iterator[Row]:
    yield from layers(ENDS)
    for index, block in blocks(model.depth):
        theirs = f"transformer.h.{index}."
        yield from layers(BLOCK, theirs, f"{block}/")
        for leaf in CONV1D:
            ours = tuple(f"{block}/attention/{name}/{leaf.ours}" for name in ("query", "key", "value"))
            yield Row(f"{theirs}attn.c_attn.{leaf.theirs}", ours, THIRDS)


def _read(about: About) -> tuple[GPT, Spec]:
    about.needs(
        {
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
        }
    )
    width = about.whole("n_embd", lambda: about.dimension("transformer.wte.weight", 1, 2))
    hidden = about.whole("n_inner", lambda: _hidden(about, width))
    context = about.whole("n_positions", lambda: about.dimension("transformer.wpe.weight", 0, 2))
    model = GPT(
        depth=about.depth("n_layer", "transformer.h."),
        width=width,
        heads=about.heads("n_head", width),
        context=context,
        expansion=about.multiple("the hidden layer", hidden, width),
        activation=about.activation("activation_function", "gelu_new"),
        epsilon=about.number("layer_norm_epsilon", 1e-5),
    )
    tokens = about.whole("vocab_size", lambda: about.dimension("transformer.wte.weight", 0, 2))
    return model, Spec((context,), tokens, tuple(map(str, range(tokens))), tokens)


def _hidden(about: About, width: int) -> int:
    return about.shapes.get("transformer.h.0.mlp.c_fc.bias", (4 * width,))[0]


def _write(model: GPT, spec: Spec) -> dict:
    end_of_text = 50256 if spec.tokens == 50257 else None
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": spec.tokens,
        "n_positions": model.context,
        "n_embd": model.width,
        "n_layer": model.depth,
        "n_head": model.heads,
        "n_inner": model.width * model.expansion,
        "activation_function": CALLED.get(model.activation, model.activation),
        "layer_norm_epsilon": model.epsilon,
        "resid_pdrop": model.dropout or 0.0,
        "embd_pdrop": model.dropout or 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
    }


LAYOUT = Layout(
    name="transformers-gpt2",
    rows=_rows,
    read=_read,
    write=_write,
    samples=(GPT(depth=1),),
    model_types=("gpt2",),
    root="transformer.",
    unused=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)", r"score\.weight"),
    tied={"lm_head.weight": "transformer.wte.weight"},
    head="(?!)",  # it is the embedding of the tokens
)
