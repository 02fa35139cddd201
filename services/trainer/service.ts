// The trainer's handlers: decode, call the domain, encode. No decisions here.
import { TrainerService } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { decodePageToken, encodePageToken, type Implementation, implement, pageSizeOf, parseName } from "#packages/rpc";
import { type Jobs, jobPattern } from "./jobs.ts";

const idOf = (name: string) => parseName(jobPattern, name, "training_job").training_job;

export function trainerService(jobs: Jobs): Implementation {
  return implement(TrainerService, {
    createTrainingJob: async (request) => ({ trainingJob: (await jobs.create(request)).job }),
    getTrainingJob: async ({ name }) => ({ trainingJob: (await jobs.get(idOf(name))).job }),
    listTrainingJobs: async ({ pageSize, pageToken, states }) => {
      const listing = `trainingJobs:${states.join()}`;
      const size = pageSizeOf(pageSize);
      const position = decodePageToken(listing, pageToken, "list_training_jobs");
      const before = position === undefined ? undefined : Number(position);
      const rows = await jobs.list({ before, states, limit: size + 1 });
      const page = rows.slice(0, size);
      return {
        trainingJobs: page.map(({ record }) => record.job),
        nextPageToken: rows.length > size ? encodePageToken(listing, String(page.at(-1)?.position)) : "",
      };
    },
    cancelTrainingJob: async ({ name }) => ({ trainingJob: (await jobs.cancel(idOf(name))).job }),
    deleteTrainingJob: async ({ name }) => {
      await jobs.remove(idOf(name));
      return {};
    },
    watchEvents: async function* ({ name, afterSequence }, { signal, drainSignal }) {
      const stop = AbortSignal.any([signal, drainSignal]);
      for await (const event of jobs.watch(idOf(name), afterSequence, stop)) yield { event };
    },
  });
}
