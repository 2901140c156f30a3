"""Tokenizers small enough to train within a test: one of each scheme that models of the Llama family have."""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LINES = [
    'The quick brown fox jumps over the lazy dog. {"name": "fox", "age": 12, "tags": ["a", "b"], "ok": true}',
    "Füchse springen über Hunde – naïve café, 100 €.",
    "敏捷的棕色狐狸跳过懒狗。狐狸和狗。",
    "def f(x):\n    return [x, x + 1]\n\n\n# 😀😁 😂🤣 👩‍👩‍👧",
] * 4
SPECIAL = ("<|end|>", "<|im_start|>", "<|im_end|>", "[TOOL_CALLS]")
END, START, CLOSE, CALLS = range(4)


def letters(vocab=600):
    """Bytes written as letters, as GPT-2's, Llama 3's and SmolLM2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(text, special=True) for text in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("</tool_call>", special=False)])
    return tokenizer


def marks():
    """Pieces with ▁ for a space and single bytes, as SentencePiece writes them for Llama 2 and Mistral."""
    pieces = [
        *SPECIAL,
        *(f"<0x{b:02X}>" for b in range(256)),
        *sorted({*"".join(LINES).replace(" ", "▁").replace("\n", "")}),
    ]
    pieces = [piece for piece in pieces if piece not in "😀狐"]
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("o", "x"), ("▁", "▁"), ("f", "ox")]
    merges = [pair for pair in merges if {*"".join(pair)} <= {*pieces}]
    pieces += ["".join(pair) for pair in merges]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, fuse_unk=True, unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return tokenizer


def begins_with(tokenizer, text):
    """Has every text that is encoded begin with a special token."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{text} $A", special_tokens=[(text, tokenizer.token_to_id(text))]
    )
    return tokenizer


def metaspace():
    tokenizer = marks()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def words():
    """A scheme that no model here has."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), "removed")
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def folder(path, tokenizer, **config):
    """A model's folder with this tokenizer in it."""
    path.mkdir(exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"} | config
    (path / "tokenizer_config.json").write_text(json.dumps(described))
    return path
