// Services as processes of their own.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";

/** With what their settings begin after NIBBLE_. */
export const serviceNames = {
  quantizer: "quantizer",
  trainer: "trainer",
  "adapter-registry": "registry",
  inference: "inference",
  gateway: "gateway",
};
export type ServiceName = keyof typeof serviceNames;

export interface Process {
  child: ChildProcess;
  address: string;
  exitCode: Promise<number | null>;
}

/** Resolves when the service listens or has ended; the address is "" then. Settings are without NIBBLE_ and its name. */
export async function launch(
  t: TestContext,
  name: ServiceName,
  settings: Record<string, string>,
  more: Record<string, string> = {},
): Promise<Process> {
  const prefix = `NIBBLE_${serviceNames[name].toUpperCase()}`;
  const env = Object.fromEntries(Object.entries({ PORT: "0", ...settings }).map(([key, v]) => [`${prefix}_${key}`, v]));
  const main = fileURLToPath(new URL(`../../services/${name}/main.ts`, import.meta.url));
  const child = spawn(process.execPath, [main], {
    env: { ...process.env, ...env, ...more },
    stdio: ["ignore", "pipe", "ignore"],
  });
  t.after(() => child.kill("SIGKILL"));
  const exitCode = once(child, "exit").then(([code]) => code as number | null);
  let address = "";
  const listening = new Promise<void>((resolve) => {
    createInterface({ input: child.stdout! })
      .on("line", (text) => {
        const line = JSON.parse(text) as { msg: string; address?: string };
        if (line.msg !== "listening") return;
        address = line.address ?? "";
        resolve();
      })
      .on("close", resolve);
  });
  await listening;
  return { child, address, exitCode };
}
