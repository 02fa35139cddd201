// A service under test on a real socket: what runService does, without the process's signals.
import type { TestContext } from "node:test";
import { pino } from "pino";
import { type Connection, connect } from "#packages/client";
import { createServer, type RunningServer, type ServiceSetup } from "#packages/rpc";

export const silent = pino({ enabled: false });

export interface Started {
  server: RunningServer;
  /** All of its clients point at the service. */
  clients: Connection;
  /** As SIGTERM would; it happens by itself when the test ends. */
  stop(): Promise<void>;
}

export async function startService(t: TestContext, setup: ServiceSetup): Promise<Started> {
  const server = await createServer({ ...setup, port: 0 });
  const clients = connect({ endpoint: server.address });
  let stopping: Promise<void> | undefined;
  const stop = () => {
    stopping ??= (async () => {
      await Promise.all([server.drain(500), setup.onDrain?.()]);
      await setup.close?.();
      clients.close();
    })();
    return stopping;
  };
  t.after(stop);
  return { server, clients, stop };
}

/** Resolves once the check holds. @throws after two minutes in vain. */
export async function until(check: () => boolean | Promise<boolean>): Promise<void> {
  const giveUp = performance.now() + 120_000;
  while (!(await check())) {
    if (performance.now() > giveUp) throw new Error(`waited two minutes for ${check}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
