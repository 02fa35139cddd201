// Trains a byte-level BPE vocabulary (Sennrich et al. 2016, arXiv:1508.07909, over bytes as GPT-2 does): split the text into words,
// then again and again make one token of the pair that occurs most. It does not encode text; @huggingface/tokenizers does that.

/** GPT-2's split of text into words, which tokenizer.json's ByteLevel pre-tokenizer repeats when it encodes. */
const wordPattern = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** The printable character that stands for each byte in a byte-level vocabulary: itself, or one from U+0100 on. */
export const byteCharacters: readonly string[] = (() => {
  const isPrintable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
})();

export interface BpeVocabulary {
  /** Tokens by id: the special ones, the 256 bytes, then one for each merge. */
  tokens: string[];
  /** Pairs in the order in which encoding joins them. */
  merges: [string, string][];
}

/** The `model` of a tokenizer.json. */
export function bpeModel({ tokens, merges }: BpeVocabulary): object {
  return {
    type: "BPE",
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
    ignore_merges: false,
    vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
    merges,
  };
}

/** The `added_tokens` of a tokenizer.json whose first ids are these. */
export function specialTokens(contents: readonly string[]): object[] {
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return contents.map((content, id) => ({ id, content, ...flags }));
}

interface Word {
  ids: number[];
  count: number;
}

function countWords(texts: Iterable<string>, specials: readonly string[], firstByteId: number[]): Word[] {
  const counts = new Map<string, number>();
  const encoder = new TextEncoder();
  for (const text of texts) {
    let plain = text;
    for (const special of specials) plain = plain.replaceAll(special, "\0");
    for (const part of plain.split("\0")) {
      for (const [word] of part.matchAll(wordPattern)) counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return [...counts].map(([word, count]) => ({
    ids: [...encoder.encode(word)].map((byte) => firstByteId[byte]!),
    count,
  }));
}

/** The pair with the highest count; of equals the one with the smallest ids, so that the result does not hang on the order of words. */
function mostFrequentPair(words: readonly Word[], idLimit: number): { left: number; right: number; count: number } {
  const counts = new Map<number, number>();
  for (const { ids, count } of words) {
    for (let i = 0; i + 1 < ids.length; i++) {
      const key = ids[i]! * idLimit + ids[i + 1]!;
      counts.set(key, (counts.get(key) ?? 0) + count);
    }
  }
  let best = -1;
  let bestCount = 0;
  for (const [key, count] of counts) {
    if (count > bestCount || (count === bestCount && key < best)) {
      best = key;
      bestCount = count;
    }
  }
  return { left: Math.floor(best / idLimit), right: best % idLimit, count: bestCount };
}

function mergePair(word: Word, left: number, right: number, merged: number): void {
  const { ids } = word;
  const out: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      out.push(merged);
      i++;
    } else {
      out.push(ids[i]!);
    }
  }
  word.ids = out;
}

/** Learns a vocabulary of exactly `vocabSize` tokens, or fewer where the texts have no pair that occurs twice. */
export function trainBpe(texts: Iterable<string>, specials: readonly string[], vocabSize: number): BpeVocabulary {
  const alphabet = [...byteCharacters].sort();
  const tokens = [...specials, ...alphabet];
  const idOfByte = byteCharacters.map((character) => specials.length + alphabet.indexOf(character));
  const words = countWords(texts, specials, idOfByte);
  const merges: [string, string][] = [];
  while (tokens.length < vocabSize) {
    const { left, right, count } = mostFrequentPair(words, vocabSize);
    if (count < 2) break;
    const merged = tokens.length;
    tokens.push(tokens[left]! + tokens[right]!);
    merges.push([tokens[left]!, tokens[right]!]);
    for (const word of words) mergePair(word, left, right, merged);
  }
  return { tokens, merges };
}
