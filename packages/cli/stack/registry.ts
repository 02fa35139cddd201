// The registry for one command: that of a running stack, or this machine's own, started for the command alone.
import { connect, type RegistryClient } from "#packages/client";
import type { Io } from "../io.ts";
import { stackConfig } from "./config.ts";
import { startService } from "./stack.ts";

export async function withRegistry(
  io: Io,
  endpoint: string | undefined,
  work: (registry: RegistryClient) => Promise<void>,
): Promise<void> {
  const given = endpoint ?? io.env["NIBBLE_ENDPOINT"];
  if (given !== undefined) {
    using connection = connect({ endpoint: given });
    await work(connection.registry);
    return;
  }
  const config = { ...stackConfig(io.env), port: 0 };
  const service = await startService("registry", {}, { config, signal: io.signal });
  try {
    using connection = connect({ endpoint: service.address });
    await work(connection.registry);
  } finally {
    await service.stop();
  }
}
