"""Makes the tokenizers beside it, each twice: NAME.tokenizer.json as Hugging Face has it, and NAME.gguf.json, what a GGUF
file has of it under `tokenizer.ggml.`. Needs sentencepiece, tokenizers, transformers before 5 and protobuf from PyPI."""

import json
import tempfile
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.convert_slow_tokenizer import LlamaConverter

HERE = Path(__file__).parent
TEXTS = [HERE / "../../../../host/eval/data" / name for name in ("stories.txt", "books.txt")]
SAMPLES = [
    "Once upon a time there was a little llama.",
    " leading and trailing ",
    "two  three   four    and many                spaces",
    "line\nbreaks\r\n\n\tand\t\ttabs",
    "emoji 🦙👩‍🚀, CJK 東京タワー 한국어, naïve café, e\u0301 combining",
    "12345 1,000.5 don't WE'LL it's x=y+z; <0x41>",
    "<|user|>hi</s><tool>\u2581<unk>",
]


def write(name, value):
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def sentence_piece():
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/spm"
        sentencepiece.SentencePieceTrainer.train(
            input=[str(text) for text in TEXTS], model_prefix=model, model_type="bpe", vocab_size=640,
            byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            split_digits=True, allow_whitespace_only_pieces=True, character_coverage=1.0,
            control_symbols=["<|user|>"], user_defined_symbols=["<tool>"], minloglevel=2,
        )
        pieces = sentencepiece.SentencePieceProcessor(model_file=f"{model}.model")
        slow = SimpleNamespace(
            vocab_file=f"{model}.model", convert_ids_to_tokens=pieces.id_to_piece, legacy=True,
            add_prefix_space=True,
        )
        converted = LlamaConverter(slow).converted()
        converted.add_special_tokens([AddedToken("<unk>", normalized=False)])
    write("sentence-piece.tokenizer.json", json.loads(converted.to_str()))

    def kind(piece):
        if pieces.is_byte(piece):
            return 6
        if pieces.is_unknown(piece):
            return 2
        if pieces.is_control(piece):
            return 3
        return 4 if pieces.id_to_piece(piece) == "<tool>" else 1

    ids = range(pieces.get_piece_size())
    write("sentence-piece.gguf.json", {
        "model": "llama",
        "tokens": [pieces.id_to_piece(piece) for piece in ids],
        "scores": [pieces.get_score(piece) for piece in ids],
        "types": [kind(piece) for piece in ids],
        # As SentencePiece itself sees them; it takes no control token from a text.
        "samples": [{"text": text, "tokens": pieces.encode(text)} for text in SAMPLES[:-1]],
    })


def byte_level():
    """Cut like Llama 3."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train([str(text) for text in TEXTS], trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    specials = ["<s>", "</s>", "<|user|>"]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    whole = json.loads(tokenizer.to_str())
    write("byte-level.tokenizer.json", whole)
    tokens = [tokenizer.id_to_token(token) for token in range(tokenizer.get_vocab_size())]
    write("byte-level.gguf.json", {
        "model": "gpt2",
        "pre": "llama-bpe",
        "tokens": tokens,
        "types": [3 if token in specials else 4 if token == "<tool>" else 1 for token in tokens],
        "merges": [" ".join(merge) for merge in whole["model"]["merges"]],
        "samples": [{"text": text, "tokens": tokenizer.encode(text).ids} for text in SAMPLES],
    })


sentence_piece()
byte_level()
