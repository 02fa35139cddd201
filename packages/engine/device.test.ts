import assert from "node:assert/strict";
import { test } from "node:test";
import { cuda } from "#native";
import { usableDevice } from "./device.ts";

const reason = cuda.unavailable();

test("auto is the CPU where there is no CUDA device", () => {
  assert.equal(usableDevice("auto"), reason === "" ? "cuda" : "cpu");
  assert.equal(usableDevice("cpu"), "cpu");
});

test("cuda without a device is refused with the reason", { skip: reason === "" && "there is a device" }, () => {
  assert.throws(() => usableDevice("cuda"), {
    code: "FAILED_PRECONDITION",
    message: `[device] device: expected a CUDA device, got none: ${reason}`,
  });
});
