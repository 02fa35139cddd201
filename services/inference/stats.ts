// Figures of the running batch and the adapters, for metrics. It knows no transport.
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { GetServingStatsResponseSchema } from "#gen/nibble/inference/v1/stats_pb.ts";
import { pageTokens, type SchedulerStats } from "#packages/engine";
import type { Served } from "./serving.ts";

interface RequestCount {
  /** Of the registry; "": none. It outlives the adapter's own record. */
  version: string;
  total: number;
  running: number;
}

/** Versions come and go for as long as the process lives; whoever asks for figures gets all that are kept. */
const countsKeptMax = 1024;

/** Requests by adapter; "" is the base alone. Beyond `keptMax`, those asked for longest ago are forgotten. */
export class RequestCounts {
  /** In the order in which they were last asked for. */
  readonly #counts = new Map<string, RequestCount>();
  readonly #keptMax: number;

  constructor(keptMax = countsKeptMax) {
    this.#keptMax = keptMax;
  }

  /** Counts a request until the returned function is called. */
  begin(adapterId: string, version: string): () => void {
    const count = this.#counts.get(adapterId) ?? { version, total: 0, running: 0 };
    this.#counts.delete(adapterId);
    if (this.#counts.size >= this.#keptMax) this.#forgetOne();
    this.#counts.set(adapterId, count);
    count.version = version;
    count.total++;
    count.running++;
    return () => {
      count.running--;
    };
  }

  #forgetOne(): void {
    for (const [adapterId, { running }] of this.#counts) {
      if (running === 0) return void this.#counts.delete(adapterId);
    }
  }

  list(): (RequestCount & { adapterId: string })[] {
    return [...this.#counts].map(([adapterId, count]) => ({ adapterId, ...count }));
  }
}

function encodeScheduler(stats: SchedulerStats) {
  return {
    requestsRunning: stats.running,
    requestsWaiting: stats.waiting,
    kvPagesUsed: BigInt(stats.pagesUsed),
    kvPagesCached: BigInt(stats.pagesCached),
    kvPagesTotal: BigInt(stats.pagesTotal),
    kvPageTokens: pageTokens,
    promptTokensTotal: BigInt(stats.promptTokens),
    promptTokensCachedTotal: BigInt(stats.promptTokensCached),
    generationTokensTotal: BigInt(stats.newTokens),
    preemptionsTotal: BigInt(stats.preemptions),
    stepsTotal: BigInt(stats.steps),
    lookupTokensGuessedTotal: BigInt(stats.lookupGuessed),
    lookupTokensAcceptedTotal: BigInt(stats.lookupAccepted),
  };
}

export async function servingStats(served: Served): Promise<MessageInitShape<typeof GetServingStatsResponseSchema>> {
  const { model, adapters, requests } = served;
  const known = adapters.list();
  return {
    ...encodeScheduler(await model.engineModel.stats()),
    adapterBytesResident: BigInt(adapters.bytesResident),
    adapterBytesMax: BigInt(adapters.bytesMax),
    adaptersResident: known.filter(({ engineId }) => engineId !== null).length,
    adaptersKnown: known.length,
    adapters: requests.list().map(({ adapterId, version, total, running }) => ({
      name: adapterId === "" ? "" : `loadedAdapters/${adapterId}`,
      requestsTotal: BigInt(total),
      requestsRunning: running,
      adapterVersion: version,
    })),
  };
}
