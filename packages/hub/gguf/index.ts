// A model as one GGUF file, for llama.cpp: the container, the blocks that numbers are stored in, Llama's keys and names.
export { encodeQ40, encodeQ80 } from "./blocks.ts";
export { type GgmlType, type GgufTensor, type GgufValue, GgufWriter, ggmlTypes } from "./container.ts";
export { type GgufFileType, ggufFileTypes, ggufName, interleaveHeads, llamaMetadata, rotatedHeads } from "./llama.ts";
export { tokenizerMetadata } from "./tokenizer.ts";
