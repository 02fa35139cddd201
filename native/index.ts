// The typed door to the native addon: tensors and ops. Names and order of arguments are those of
// native/ops/*.h. Checks here are about types and ranges; shapes and devices are checked in C++.
export * from "./attention.ts";
export * from "./graphs.ts";
export * from "./layers.ts";
export * from "./linear.ts";
export * from "./llama-block.ts";
export * from "./mapped-file.ts";
export * from "./optimizer.ts";
export * from "./quantize.ts";
export * from "./runtime.ts";
export * from "./sampling.ts";
export * from "./screened-head.ts";
export * from "./tensor.ts";
