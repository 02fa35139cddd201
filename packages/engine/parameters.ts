// What is trained: tensors with their gradients, under the names of the checkpoint files.
import { type Device, type MemoryKind, Tensor } from "#native";

export interface Parameter {
  readonly name: string;
  readonly value: Tensor;
  /** The shape and dtype of value: float32, or bfloat16; summed over the micro-batches of a step. */
  readonly grad: Tensor;
}

export function makeParameter(name: string, value: Tensor): Parameter {
  return {
    name,
    value,
    grad: Tensor.empty(value.dtype, value.shape, { device: value.device, kind: "gradients" }).zero(),
  };
}

export function emptyFloat32(shape: readonly number[], device: Device, kind: MemoryKind): Tensor {
  return Tensor.empty("float32", shape, { device, kind });
}

export function freeParameter(p: Parameter): void {
  p.value.free();
  p.grad.free();
}
