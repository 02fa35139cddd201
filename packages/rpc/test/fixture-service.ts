// A service for run-service.test.ts: one call that takes as long as it is told to.
import { setTimeout as sleep } from "node:timers/promises";
import { runService } from "#packages/rpc";
import { registryWith } from "./support.ts";

const port = Number(process.argv[2] ?? 0);
await runService("fixture", () => ({
  port,
  drainMs: 20_000,
  services: [
    registryWith({
      getAdapter: async (_, { logger }) => {
        logger.info("entered");
        await sleep(300);
        return { adapter: { name: "adapters/done" } };
      },
    }),
  ],
}));
