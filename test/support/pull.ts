// A pull in a process of its own, for tests that kill it.
import { pullRepo } from "#packages/hub";

await pullRepo(process.argv[2] ?? "");
