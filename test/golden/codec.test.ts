// Every vector that bitsandbytes made, codes and dequantized values bit for bit, in each backend and
// instruction set of this machine.
import { after, describe, test } from "node:test";
import { chooseIsa, isa, supportedIsas } from "#native";
import { checkCodec, codecCases } from "../support/codec-golden.ts";

describe("bitsandbytes golden vectors", () => {
  const before = isa();
  after(() => chooseIsa(before));
  for (const c of codecCases) test(`reference ${c.key}`, () => checkCodec(c, "reference"));
  for (const name of supportedIsas()) {
    test(`cpu/${name}: all ${codecCases.length} cases`, () => {
      chooseIsa(name);
      for (const c of codecCases) checkCodec(c, "cpu");
    });
  }
});
