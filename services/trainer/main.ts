// Runs the trainer until it is told to stop.
import { runService } from "#packages/rpc";
import { readConfig } from "./config.ts";
import { openTrainer } from "./setup.ts";

await runService("trainer", (logger) => openTrainer(readConfig(), { now: Date.now, logger }));
