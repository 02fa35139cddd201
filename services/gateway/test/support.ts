// The services behind a gateway and the gateway itself, each on a socket of its own in this process.
import { join } from "node:path";
import type { TestContext } from "node:test";
import { createServer, type ServiceSetup } from "#packages/rpc";
import { temporaryFolder } from "../../../test/support/folders.ts";
import { silent } from "../../../test/support/services.ts";
import { readConfig as registryConfig } from "../../adapter-registry/config.ts";
import { openRegistry } from "../../adapter-registry/setup.ts";
import { readConfig as inferenceConfig } from "../../inference/config.ts";
import { openInference } from "../../inference/setup.ts";
import { readConfig as trainerConfig } from "../../trainer/config.ts";
import { openTrainer } from "../../trainer/setup.ts";
import { readConfig } from "../config.ts";
import { type Gateway, openGateway } from "../setup.ts";

const now = Date.now;

/** Served until it is stopped or the test ends. */
export interface Served {
  address: string;
  stop(): Promise<void>;
}

async function served(t: TestContext, setup: ServiceSetup): Promise<Served> {
  const server = await createServer({ ...setup, port: 0 });
  let stopping: Promise<void> | undefined;
  const stop = async () => {
    await Promise.all([server.drain(500), setup.onDrain?.()]);
    await setup.close?.();
  };
  const stopOnce = () => (stopping ??= stop());
  t.after(stopOnce);
  return { address: server.address, stop: stopOnce };
}

export async function startRegistry(t: TestContext): Promise<Served> {
  const dir = join(temporaryFolder(t), "registry");
  const config = registryConfig({ NIBBLE_REGISTRY_DIR: dir, NIBBLE_REGISTRY_PORT: "0" });
  return served(t, await openRegistry(config, { now, logger: silent }));
}

/** @param modelDir "": none is loaded. */
export async function startInference(
  t: TestContext,
  registry: string,
  modelDir: string,
  env: Record<string, string> = {},
): Promise<Served> {
  const config = inferenceConfig({
    NIBBLE_INFERENCE_DIR: join(temporaryFolder(t), "inference"),
    NIBBLE_INFERENCE_MODEL: modelDir,
    NIBBLE_REGISTRY_ENDPOINT: registry,
    ...env,
  });
  return served(t, await openInference(config, { now, logger: silent }));
}

export async function startTrainer(t: TestContext, registry: string): Promise<Served> {
  const dir = join(temporaryFolder(t), "trainer");
  const config = trainerConfig({ NIBBLE_TRAINER_DIR: dir, NIBBLE_REGISTRY_ENDPOINT: registry });
  return served(t, await openTrainer(config, { now, logger: silent }));
}

/** Nothing listens there. */
export const nowhere = "127.0.0.1:1";

export async function startGateway(t: TestContext, env: Record<string, string> = {}): Promise<Gateway> {
  const config = readConfig({
    NIBBLE_GATEWAY_DIR: join(temporaryFolder(t), "gateway"),
    NIBBLE_GATEWAY_PORT: "0",
    NIBBLE_INFERENCE_ENDPOINT: nowhere,
    NIBBLE_TRAINER_ENDPOINT: nowhere,
    NIBBLE_REGISTRY_ENDPOINT: nowhere,
    ...env,
  });
  const gateway = await openGateway(config, { now, logger: silent });
  t.after(() => gateway.stop(0));
  return gateway;
}

export interface All extends Gateway {
  inference: Served;
  registry: Served;
  trainer: Served;
}

/** A gateway with everything behind it. */
export async function startAll(t: TestContext, modelDir: string, env: Record<string, string> = {}): Promise<All> {
  const registry = await startRegistry(t);
  const inference = await startInference(t, registry.address, modelDir);
  const trainer = await startTrainer(t, registry.address);
  const gateway = await startGateway(t, {
    NIBBLE_INFERENCE_ENDPOINT: inference.address,
    NIBBLE_TRAINER_ENDPOINT: trainer.address,
    NIBBLE_REGISTRY_ENDPOINT: registry.address,
    ...env,
  });
  return { ...gateway, inference, registry, trainer };
}
