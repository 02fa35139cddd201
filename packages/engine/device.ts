// Which device work is done on: what users say, and what that means on this machine.
import { cuda, type Device } from "#native";
import type { TrainRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";

/** "auto": a CUDA device where there is one, else the CPU. */
export const deviceChoices = ["auto", "cpu", "cuda"] as const;
export type DeviceChoice = (typeof deviceChoices)[number];

/** @throws FAILED_PRECONDITION when a CUDA device is asked for and there is none, with the reason. */
export function usableDevice(choice: DeviceChoice | Device): Device {
  if (choice !== "auto" && choice !== "cuda") return choice;
  const reason = cuda.unavailable();
  if (reason === "") return "cuda";
  if (choice === "auto") return "cpu";
  const message = `device: expected a CUDA device, got none: ${reason}`;
  throw new NibbleError(message, { code: "FAILED_PRECONDITION", op: "device", details: { field: "device" } });
}

/** @throws INVALID_ARGUMENT for what only a device with memory of its own can do. */
export function checkForDevice({ gradientCheckpointing }: TrainRecipe, device: Device): void {
  if (gradientCheckpointing !== "offload" || device === "cuda") return;
  const message = `gradient_checkpointing: expected none, selective or full on the ${device}, got offload, which is for a card`;
  const details = { field: "gradient_checkpointing", key: "gradientCheckpointing" };
  throw new NibbleError(message, { code: "INVALID_ARGUMENT", op: "train", details });
}
