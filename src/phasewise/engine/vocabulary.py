"""The tokenizer inside a GGUF file, as the files that Hugging Face's libraries read: `tokenizer.json` and its configuration.

Two kinds are known: byte-level BPE (`gpt2`: SmolLM2, Llama 3, Qwen, Mistral Nemo) and SentencePiece's BPE (`llama`: Llama 2,
Mistral, Mixtral). How text is cut before the merges is a name in the file (`tokenizer.ggml.pre`), and what it stands for is
written down in llama.cpp's sources and here: an unknown name is an error, for a guess would tokenize almost right.

A character that has no token vanishes, in transformers and llama.cpp as here. SmolLM2's vocabulary lacks 21 bytes: six control
characters (U+0004 is one), and two that begin the private and unassigned planes; the others no UTF-8 text has.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from phasewise.core.errors import InputError

_UNKNOWN, _CONTROL, _USER = 2, 3, 4  # of tokenizer.ggml.token_type; 1 is a plain token, 5 unused, 6 a byte

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAMEL = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_PATTERNS = {
    "llama3": rf"{_ENDINGS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}",
    "qwen2": rf"{_ENDINGS}|{_WORDS}|\p{{N}}|{_REST}",
    "tekken": rf"{_CAMEL}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_CUTS = {
    "smollm": "digits",
    "starcoder": "digits",
    "gpt-2": "plain",
    "llama-bpe": "llama3",
    "llama-v3": "llama3",
    "llama3": "llama3",
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "tekken": "tekken",
}
"""How the text is cut, by the file's name for it: `plain` as GPT-2, `digits` each digit alone and then as GPT-2."""


def tokenizer_of(metadata: dict[str, Any], where: str) -> Tokenizer:
    """The tokenizer that a GGUF file's keys describe; InputError where it has none, or one of a kind that is not known."""
    kind, tokens = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama") or not isinstance(tokens, list) or not tokens:
        raise InputError(
            f"tokenizer {kind!r} is not supported; known: gpt2 (byte-level BPE), llama (SentencePiece)", where
        )
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise InputError(f"{len(tokens) - len(vocab)} tokens of the vocabulary are there twice", where)
    try:
        tokenizer = _byte_level(metadata, vocab, where) if kind == "gpt2" else _sentencepiece(metadata, vocab, tokens)
    except InputError:
        raise
    except Exception as e:  # the library raises nothing narrower
        raise InputError(
            f"the vocabulary and its merges do not belong together: {str(e).partition(chr(10))[0]}", where
        ) from e
    kinds = metadata.get("tokenizer.ggml.token_type")
    kinds = kinds if isinstance(kinds, list) else []
    for token, how in zip(tokens, kinds, strict=False):
        if how in (_CONTROL, _USER) or (how == _UNKNOWN and kind == "llama"):
            added = AddedToken(token, normalized=False)
            (tokenizer.add_tokens if how == _USER else tokenizer.add_special_tokens)([added])
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if type(bos) is int and bos < len(tokens) and _adds_bos(metadata):
        first = processors.TemplateProcessing(
            f"{tokens[bos]} $A", f"{tokens[bos]} $A {tokens[bos]} $B", [(tokens[bos], bos)]
        )
        byte_level = processors.ByteLevel(trim_offsets=False)
        tokenizer.post_processor = processors.Sequence([byte_level, first]) if kind == "gpt2" else first
    return tokenizer


def tokenizer_config(metadata: dict[str, Any]) -> dict[str, Any]:
    """The `tokenizer_config.json` beside it: the special tokens by their part, the chat template, the longest text."""
    tokens = metadata["tokenizer.ggml.tokens"]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": metadata.get(f"{metadata.get('general.architecture')}.context_length", 1 << 30),
    }
    for part, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        i = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if type(i) is int and 0 <= i < len(tokens):
            config[f"{part}_token"] = tokens[i]
    if isinstance(template := metadata.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    return config


def _adds_bos(metadata: dict[str, Any]) -> bool:
    """As the file says; where it does not, as llama.cpp: SentencePiece's kind and Llama 3 do, other byte-level ones do not."""
    usual = (
        metadata["tokenizer.ggml.model"] == "llama" or _CUTS.get(str(metadata.get("tokenizer.ggml.pre"))) == "llama3"
    )
    said = metadata.get("tokenizer.ggml.add_bos_token")
    return usual if said is None else bool(said)


def _byte_level(metadata: dict[str, Any], vocab: dict[str, int], where: str) -> Tokenizer:
    cut = _CUTS.get(name := str(metadata.get("tokenizer.ggml.pre", "none")))
    if cut is None:
        raise InputError(f"pre-tokenizer {name!r} is not supported; known: {', '.join(sorted(_CUTS))}", where)
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    # Llama 3 and Tekken take a word that is a token as it is, even where the merges do not lead to it.
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=cut in ("llama3", "tekken")))
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut not in _PATTERNS)
    first: list[pre_tokenizers.PreTokenizer] = []
    if cut in _PATTERNS:
        first = [pre_tokenizers.Split(Regex(_PATTERNS[cut]), behavior="isolated")]
    elif cut == "digits":
        first = [pre_tokenizers.Digits(individual_digits=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, bytes_of])
    if cut == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(metadata: dict[str, Any], vocab: dict[str, int], tokens: list[str]) -> Tokenizer:
    """SentencePiece joins the two neighbours whose union scores highest: as merges, all ways to make each token of two
    others, in the order of its score."""
    scores = metadata["tokenizer.ggml.scores"]
    merges = []
    for token in sorted(vocab, key=lambda token: (-scores[vocab[token]], vocab[token])):
        halves = ((token[:i], token[i:]) for i in range(1, len(token)))
        merges += sorted(
            (p for p in halves if p[0] in vocab and p[1] in vocab), key=lambda p: (vocab[p[0]], vocab[p[1]])
        )
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True))
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", "▁")]
    ends: list[decoders.Decoder] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend("▁"))
        ends.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer, tokenizer.decoder = normalizers.Sequence(steps), decoders.Sequence(ends)
    return tokenizer
