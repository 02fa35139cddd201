// The trainer's handlers: decode, call the domain, encode. No decisions here.

import type { TrainingSpec } from "#gen/nibble/trainer/v1/spec_pb.ts";
import { TrainerService } from "#gen/nibble/trainer/v1/trainer_pb.ts";
import { NibbleError } from "#packages/errors";
import { decodePageToken, encodePageToken, type Implementation, implement, pageSizeOf, parseName } from "#packages/rpc";
import { type Jobs, jobPattern } from "./jobs.ts";
import { previewOf, quoteOf } from "./payloads.ts";
import type { PreviewJob, QuoteJob } from "./training.ts";

const idOf = (name: string) => parseName(jobPattern, name, "training_job").training_job;

/** @throws RESOURCE_EXHAUSTED for a job that would not be let in. */
async function validated(quote: QuoteJob, spec: TrainingSpec, signal: AbortSignal) {
  const quoted = await quote(spec, signal);
  const { refusal } = quoted;
  if (refusal === null) return { trainingJob: { spec }, quote: quoteOf(quoted) };
  throw new NibbleError(refusal.message, {
    code: "RESOURCE_EXHAUSTED",
    op: "create_training_job",
    details: refusal.details,
  });
}

const previewRowsDefault = 3;

export function trainerService(jobs: Jobs, quote: QuoteJob, preview: PreviewJob): Implementation {
  return implement(TrainerService, {
    createTrainingJob: async (request, { signal }) => {
      const spec = request.trainingJob?.spec;
      if (!request.validateOnly || !spec) return { trainingJob: (await jobs.create(request)).job };
      jobs.check(request);
      return validated(quote, spec, signal);
    },
    quoteTrainingJob: async ({ spec }, { signal }) => ({
      ...(spec ? { quote: quoteOf(await quote(spec, signal)) } : {}),
    }),
    previewData: async ({ spec, rows }, { signal }) =>
      spec ? previewOf(await preview(spec, rows ?? previewRowsDefault, signal)) : {},
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
