"""BERT of transformers: `BertForSequenceClassification`, `BertForMaskedLM`, and `BertModel` without a head.

A file for masked tokens that has the pooler of the first token as well, as the published ones do, gives both. The
names of Google's first files, LayerNorm.gamma and .beta, are read too.
"""

from collections.abc import Iterator

from research.models import BERT
from research.models.bert import SEGMENTS
from research.pretrained.about import CALLED, About, labels
from research.pretrained.layout import DENSE, EMBEDDING, NORM, Layout, Row, blocks, layers
from research.spec import Spec

EMBEDDINGS = {
    "bert.embeddings.word_embeddings": ("tokens", EMBEDDING),
    "bert.embeddings.position_embeddings": ("positions", EMBEDDING),
    "bert.embeddings.token_type_embeddings": ("segments", EMBEDDING),
    "bert.embeddings.LayerNorm": ("norm", NORM),
}
BLOCK = {
    "attention.self.query": ("attention/query", DENSE),
    "attention.self.key": ("attention/key", DENSE),
    "attention.self.value": ("attention/value", DENSE),
    "attention.output.dense": ("attention/output", DENSE),
    "attention.output.LayerNorm": ("norm_0", NORM),
    "intermediate.dense": ("dense_0", DENSE),
    "output.dense": ("dense_1", DENSE),
    "output.LayerNorm": ("norm_1", NORM),
}
POOLER = {"bert.pooler.dense": ("pooler", DENSE)}
CLASSES = {**POOLER, "classifier": ("head", DENSE)}
TOKENS = {
    "cls.predictions.transform.dense": ("dense", DENSE),
    "cls.predictions.transform.LayerNorm": ("head_norm", NORM),
}


def _rows(model: BERT) -> Iterator[Row]:
    yield from layers(EMBEDDINGS)
    for index, block in blocks(model.depth):
        yield from layers(BLOCK, f"bert.encoder.layer.{index}.", f"{block}/")
    if model.head == "class":
        yield from layers(CLASSES)
    else:
        yield from layers(TOKENS)
        yield Row("cls.predictions.bias", ("bias",))
        yield from layers(POOLER)


def _read(about: About) -> tuple[BERT, Spec]:
    of_tokens = "cls.predictions.bias" in about.shapes and "classifier.weight" not in about.shapes
    about.needs({"type_vocab_size": SEGMENTS, "is_decoder": False, "position_embedding_type": "absolute"})
    about.needs({"tie_word_embeddings": True} if of_tokens else {})
    words = "bert.embeddings.word_embeddings.weight"
    width = about.whole("hidden_size", lambda: about.dimension(words, 1, 2))
    hidden = about.whole(
        "intermediate_size", lambda: about.dimension("bert.encoder.layer.0.intermediate.dense.weight", 0, 2)
    )
    context = about.whole(
        "max_position_embeddings", lambda: about.dimension("bert.embeddings.position_embeddings.weight", 0, 2)
    )
    tokens = about.whole("vocab_size", lambda: about.dimension(words, 0, 2))
    padding = about.settings.get("pad_token_id", 0)
    model = BERT(
        depth=about.depth("num_hidden_layers", "bert.encoder.layer."),
        width=width,
        heads=about.heads("num_attention_heads", width),
        context=context,
        expansion=about.multiple("the hidden layer", hidden, width),
        head="tokens" if of_tokens else "class",
        padding=padding if isinstance(padding, int) and 0 <= padding < tokens else None,
        activation=about.activation("hidden_act", "gelu"),
        epsilon=about.number("layer_norm_eps", 1e-12),
    )
    classes = tokens if of_tokens else about.classes("classifier.weight")
    return model, Spec((context,), classes, about.names(classes), tokens)


def _write(model: BERT, spec: Spec) -> dict:
    of_tokens = model.head == "tokens"
    return {
        "architectures": ["BertForMaskedLM" if of_tokens else "BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": spec.tokens,
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": model.width * model.expansion,
        "hidden_act": CALLED.get(model.activation, model.activation),
        "hidden_dropout_prob": model.dropout or 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": model.context,
        "type_vocab_size": SEGMENTS,
        "layer_norm_eps": model.epsilon,
        "pad_token_id": model.padding,
        **({} if of_tokens else labels(spec)),
    }


LAYOUT = Layout(
    name="transformers-bert",
    rows=_rows,
    read=_read,
    write=_write,
    samples=(BERT(depth=1), BERT(depth=1, head="tokens")),
    model_types=("bert",),
    root="bert.",
    renamed=((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    unused=(r"bert\.embeddings\.position_ids", r"cls\.seq_relationship\..*", r"qa_outputs\..*"),
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    head="(head|pooler|dense|head_norm)/.*|bias",
)
