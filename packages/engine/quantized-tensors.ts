// A 4-bit weight as the tensors of a checkpoint: what a quantized folder holds and a digest is made of.
import { codeValues, float32Bytes, type Tensor, type Weight } from "#native";
import { NibbleError } from "#packages/errors";
import { type QuantState, quantStateJson, quantStateNames, quantStateSpecs, type TensorToWrite } from "#packages/hub";
import { nestedBlock } from "./quantize-tensor.ts";

/** @param prefix the module path; the weight is `${prefix}.weight` in the folder. */
export function weightTensors(prefix: string, w: Weight): TensorToWrite[] {
  const { quant } = w;
  if (quant === null) throw new NibbleError(`${prefix} is not in 4 bits`, { code: "INTERNAL", op: "quantize" });
  const state: QuantState = {
    quantType: quant.type,
    blockSize: quant.blockSize,
    dtype: quant.dtype as QuantState["dtype"],
    shape: [w.out, w.in],
    nested: quant.nested && { blockSize: nestedBlock, offset: quant.nested.offset },
  };
  const names = quantStateNames(prefix, state);
  const bytes = new Map<string | null, Uint8Array>([
    [names.weight, w.data.read()],
    [names.absmax, quant.absmax.read()],
    [names.quantMap, float32Bytes(codeValues(quant.type))],
    [names.nestedAbsmax, read(quant.nested?.absmax)],
    [names.nestedQuantMap, read(quant.nested?.map)],
  ]);
  const tensors = quantStateSpecs(prefix, state).map((spec) => ({
    ...spec,
    bytes: bytes.get(spec.name) ?? new Uint8Array(),
  }));
  return [...tensors, quantStateJson(prefix, state)];
}

function read(t: Tensor | undefined): Uint8Array {
  return t?.read() ?? new Uint8Array();
}
