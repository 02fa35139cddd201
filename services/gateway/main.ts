// Runs the gateway until it is told to stop.
import { metrics } from "@opentelemetry/api";
import { runProcess } from "#packages/rpc";
import { readConfig } from "./config.ts";
import { openGateway } from "./setup.ts";

await runProcess("gateway", async (logger) => {
  const config = readConfig();
  const gateway = await openGateway(config, { now: Date.now, logger });
  // Without an SDK of its own, what the kits measure is scraped here as well; with one this is refused.
  metrics.setGlobalMeterProvider(gateway.metrics.provider);
  return { address: gateway.address, stop: () => gateway.stop(config.drainMs) };
});
