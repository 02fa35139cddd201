// The quickstart's tokenizer: trained on the corpus, described in the files that @huggingface/tokenizers and transformers load.
import { type BpeVocabulary, bpeModel, specialTokens, trainBpe } from "./bpe.ts";
import { documents } from "./corpus.ts";
import { contextTokens, vocabSize } from "./recipe.ts";

export const specials = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"] as const;

/** Each turn opens with its role's token; the assistant's closes with </s>. A system message is text before the first turn. */
export const chatTemplate =
  "<s>{% for message in messages %}" +
  "{% if message['role'] == 'system' %}{{ message['content'] }}\n" +
  "{% elif message['role'] == 'user' %}<|user|>{{ message['content'] }}" +
  "{% elif message['role'] == 'assistant' %}<|assistant|> {{ message['content'] }}</s>" +
  "{% else %}{{ raise_exception('the roles are system, user and assistant') }}{% endif %}" +
  "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/** Trains on the first `documentCount` documents of the corpus of `seed`. */
export function trainTokenizer(seed: number, documentCount: number): BpeVocabulary {
  return trainBpe(documents(seed).take(documentCount), specials, vocabSize);
}

const bytesInOut = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };

/** tokenizer.json; encoding puts <s> in front. */
export function tokenizerJson(vocabulary: BpeVocabulary): object {
  const start = { SpecialToken: { id: "<s>", type_id: 0 } };
  const text = { Sequence: { id: "A", type_id: 0 } };
  const second = { Sequence: { id: "B", type_id: 0 } };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens(specials),
    normalizer: null,
    pre_tokenizer: bytesInOut,
    post_processor: {
      type: "TemplateProcessing",
      single: [start, text],
      pair: [start, text, second],
      special_tokens: { "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] } },
    },
    decoder: { ...bytesInOut, add_prefix_space: true },
    model: bpeModel(vocabulary),
  };
}

export const tokenizerConfig = {
  bos_token: "<s>",
  eos_token: "</s>",
  pad_token: "<pad>",
  additional_special_tokens: ["<|user|>", "<|assistant|>"],
  model_max_length: contextTokens,
  tokenizer_class: "PreTrainedTokenizerFast",
  clean_up_tokenization_spaces: false,
  add_bos_token: true,
};
