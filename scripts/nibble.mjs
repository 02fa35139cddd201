#!/usr/bin/env node
// `npx nibble …` and `npm run -s nibble -- …`: bootstraps, then runs the command line on the pinned Node.
import { join } from "node:path";
import { runOnPinnedNode } from "./bootstrap.mjs";

runOnPinnedNode(join("packages", "cli", "main.ts"), process.argv.slice(2));
