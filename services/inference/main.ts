// Runs the inference service until it is told to stop.
import { runService } from "#packages/rpc";
import { readConfig } from "./config.ts";
import { openInference } from "./setup.ts";

await runService("inference", (logger) => openInference(readConfig(), { now: Date.now, logger }));
