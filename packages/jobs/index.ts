// What services with long work share: a bounded queue that runs one piece of work at a time, and turns. It knows no jobs'
// content, no store and no transport.

export { Once } from "./once.ts";
export type { CancelResult, Place, Run } from "./run-queue.ts";
export { RunQueue } from "./run-queue.ts";
export { Slots, Turns } from "./turns.ts";
