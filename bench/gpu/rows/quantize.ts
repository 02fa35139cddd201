// All linear layers of 7B from bfloat16 to NF4 with double quantization, on the device; the making of the weights is not
// part of the time.
import { memory } from "#native";
import { freeModel } from "../../../packages/engine/model-load.ts";
import { randomModel } from "../random-model.ts";
import { measureRates } from "../rates.ts";
import { gigabytes, type MeasureRow } from "../row.ts";
import { configOf } from "../shapes.ts";

export const measureQuantize: MeasureRow = async (setting) => {
  const { device, shape } = setting;
  const total = { seconds: 0, elements: 0 };
  memory.resetPeak(device);
  const onQuantized = (matrix: { seconds: number; elements: number }) => {
    total.seconds += matrix.seconds;
    total.elements += matrix.elements;
  };
  const model = randomModel(configOf("7b", shape), { device, positions: 16, onQuantized });
  const { peakTotal } = memory.report(device);
  freeModel(model);
  const rates = measureRates(setting);
  // 2 bytes are read, 4 bits and the block's 8-bit constant are written.
  const bytes = total.elements * (2 + 1 / 2 + 1 / 64);
  return {
    what: "7b: all linear layers from bfloat16 to NF4 with double quantization, on the device",
    figures: {
      time: { value: total.seconds, unit: "s" },
      "share of a copy's rate": { value: bytes / total.seconds / rates.copy, unit: "" },
      "tensors at their peak": gigabytes(peakTotal),
    },
    goals: [
      { text: "< 3 s", value: total.seconds, needed: 3, atMost: true },
      { text: "≥ 60 % of memory bandwidth", value: bytes / total.seconds / rates.copy, needed: 0.6, atMost: false },
    ],
    notes: rates.notes,
  };
};
