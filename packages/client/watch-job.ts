// A job's events as one uninterrupted sequence, whatever happens to the connection.
import type { Event } from "#gen/nibble/trainer/v1/events_pb.ts";
import type { TrainerClient } from "./connect.ts";
import { Retries, type RetryOptions } from "./retry.ts";

export interface WatchOptions extends RetryOptions {
  /** Begin after this sequence. Default: 0, with the job's first event. */
  afterSequence?: bigint;
}

/**
 * Yields every event after `afterSequence` exactly once and in order, and ends after the one that ends the job. Call
 * it with the job's name, `trainingJobs/{training_job}`. Leaving the loop ends the stream, not the job.
 */
export async function* watchJob(
  trainer: TrainerClient,
  name: string,
  options: WatchOptions = {},
): AsyncGenerator<Event, void, undefined> {
  const { signal, afterSequence = 0n } = options;
  const retries = new Retries(options);
  let last = afterSequence;
  for (;;) {
    try {
      const call = { deadlineMs: Number.POSITIVE_INFINITY, ...(signal ? { signal } : {}) };
      for await (const { event } of trainer.watchEvents({ name, afterSequence: last }, call)) {
        if (!event || event.sequence <= last) continue;
        last = event.sequence;
        retries.progress();
        yield event;
      }
      return;
    } catch (thrown) {
      await retries.again(thrown);
    }
  }
}
