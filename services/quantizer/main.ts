// Runs the quantizer until it is told to stop.
import { runService } from "#packages/rpc";
import { readConfig } from "./config.ts";
import { openQuantizer } from "./setup.ts";

await runService("quantizer", (logger) => openQuantizer(readConfig(), { now: Date.now, logger }));
