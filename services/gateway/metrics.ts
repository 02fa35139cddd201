// What is measured, in Prometheus' text. Latencies have the names of OpenTelemetry's conventions for generative AI
// (gen_ai.server.*), the rest vLLM's with "nibble_" before them. The inference service's own figures are asked of it when
// somebody scrapes.
import type { Attributes, BatchObservableResult, Counter, Histogram, Meter, Observable } from "@opentelemetry/api";
import { PrometheusExporter, PrometheusSerializer } from "@opentelemetry/exporter-prometheus";
import { MeterProvider, type MetricData, type ResourceMetrics } from "@opentelemetry/sdk-metrics";
import type { GetServingStatsResponse } from "#gen/nibble/inference/v1/stats_pb.ts";
import type { InferenceClient } from "#packages/client";
import { NibbleError } from "#packages/errors";
import type { AnswerEvent } from "./completions/answers.ts";
import { finishReasonOf } from "./completions/shapes.ts";
import { idOf, versionName } from "./models.ts";

/** Boundaries that the conventions recommend, in seconds. */
const requestSeconds = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const firstTokenSeconds = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const tokenSeconds = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];
const statsMsMax = 2000;

/** Names as labels, as many as there may be: each is a time series of its own, which Prometheus keeps for long. */
class Labels {
  readonly #max: number;
  readonly #names = new Set<string>();

  constructor(max: number) {
    this.#max = max;
  }

  of(name: string): string {
    if (this.#names.size < this.#max) this.#names.add(name);
    return this.#names.has(name) ? name : "other";
  }
}

export interface RequestMeter {
  /** The same events, timed on their way. */
  watch(events: AsyncIterable<AnswerEvent>): AsyncIterable<AnswerEvent>;
}

export class ServingMetrics {
  readonly provider: MeterProvider;
  readonly #reader = new PrometheusExporter({ preventServerStart: true });
  /** No prefix, no timestamps, no labels of the process: Prometheus adds those of what it scrapes. */
  readonly #serializer = new PrometheusSerializer("", false, undefined, true, true);
  readonly #duration: Histogram;
  readonly #firstToken: Histogram;
  readonly #perToken: Histogram;
  readonly #queue: Histogram;
  readonly #finished: Counter;

  readonly #models: Labels;

  /** @param modelsMax models with figures of their own. */
  constructor(inference: InferenceClient, modelsMax: number) {
    this.#models = new Labels(modelsMax);
    this.provider = new MeterProvider({ readers: [this.#reader] });
    const meter = this.provider.getMeter("nibble");
    const seconds = (name: string, description: string, explicitBucketBoundaries: number[]) =>
      meter.createHistogram(name, { unit: "s", description, advice: { explicitBucketBoundaries } });
    this.#duration = seconds(
      "gen_ai.server.request.duration",
      "From the request to the end of its answer.",
      requestSeconds,
    );
    this.#firstToken = seconds(
      "gen_ai.server.time_to_first_token",
      "From the request to its first token.",
      firstTokenSeconds,
    );
    this.#perToken = seconds(
      "gen_ai.server.time_per_output_token",
      "Between one token and the next, mean of an answer, without the first.",
      tokenSeconds,
    );
    this.#queue = seconds(
      "nibble.request_queue_time",
      "Time that a request waited before it was computed.",
      requestSeconds,
    );
    this.#finished = meter.createCounter("nibble.request_success", {
      description: "Answers by the reason of their end.",
    });
    observeStats(meter, inference, new Labels(modelsMax));
  }

  /** Begins with the request. */
  request(operation: string, model: string): RequestMeter {
    const started = performance.now();
    // Names that nothing stands behind are no label: anybody may make up as many as they like.
    const attributesOf = (isKnown: boolean): Attributes => ({
      "gen_ai.operation.name": operation,
      ...(isKnown ? { "gen_ai.request.model": this.#models.of(model) } : {}),
    });
    return { watch: (events) => this.#watch(events, started, attributesOf) };
  }

  async *#watch(
    events: AsyncIterable<AnswerEvent>,
    started: number,
    attributesOf: (isKnown: boolean) => Attributes,
  ): AsyncGenerator<AnswerEvent> {
    const since = (from: number) => (performance.now() - from) / 1000;
    let first: number | undefined;
    let error: NibbleError | undefined;
    let isWhole = false;
    try {
      for await (const event of events) {
        if (first === undefined) {
          first = performance.now();
          this.#firstToken.record((first - started) / 1000, attributesOf(true));
        }
        if (event.end) this.#ended(event.end, since(first), attributesOf(true));
        yield event;
      }
      isWhole = true;
    } catch (thrown) {
      error = NibbleError.from(thrown, "answer");
      throw error;
    } finally {
      const type = error?.code ?? (isWhole ? undefined : "CANCELLED");
      const failure = type === undefined ? {} : { "error.type": type };
      this.#duration.record(since(started), { ...attributesOf(type !== "NOT_FOUND"), ...failure });
    }
  }

  #ended({ finishReason, usage }: NonNullable<AnswerEvent["end"]>, seconds: number, attributes: Attributes): void {
    this.#finished.add(1, { ...attributes, finished_reason: finishReasonOf(finishReason) });
    if (!usage) return;
    this.#queue.record(usage.queueSeconds, attributes);
    if (usage.completionTokens > 1) this.#perToken.record(seconds / (usage.completionTokens - 1), attributes);
  }

  /** All metrics as Prometheus reads them. */
  async text(): Promise<string> {
    const { resourceMetrics, errors } = await this.#reader.collect();
    if (errors.length > 0) throw errors[0];
    return this.#serializer.serialize(withUnits(resourceMetrics));
  }

  close(): Promise<void> {
    return this.provider.shutdown();
  }
}

/** Names that end with their unit, as Prometheus wants them: the serializer does not see to it. */
function withUnits({ resource, scopeMetrics }: ResourceMetrics): ResourceMetrics {
  const named = (metric: MetricData): MetricData => {
    const { name, unit } = metric.descriptor;
    return unit === "s" ? { ...metric, descriptor: { ...metric.descriptor, name: `${name}_seconds` } } : metric;
  };
  return { resource, scopeMetrics: scopeMetrics.map((one) => ({ ...one, metrics: one.metrics.map(named) })) };
}

type Stats = GetServingStatsResponse;

interface Figure {
  name: string;
  description: string;
  kind: "gauge" | "counter";
  of(stats: Stats): number;
}

const gauge = (name: string, description: string, of: Figure["of"]): Figure => ({
  kind: "gauge",
  name,
  description,
  of,
});
const counter = (name: string, description: string, of: Figure["of"]): Figure => ({
  kind: "counter",
  name,
  description,
  of,
});

const figures: readonly Figure[] = [
  gauge("num_requests_running", "Answers in the running batch.", (s) => s.requestsRunning),
  gauge("num_requests_waiting", "Requests that wait for a place.", (s) => s.requestsWaiting),
  gauge("kv_cache_usage_perc", "Part of the key/value cache in use; 1 is all of it.", (s) =>
    s.kvPagesTotal > 0n ? Number(s.kvPagesUsed) / Number(s.kvPagesTotal) : 0,
  ),
  gauge("adapters_resident", "Adapters in memory.", (s) => s.adaptersResident),
  gauge("adapters_known", "Adapters in memory or on disk.", (s) => s.adaptersKnown),
  gauge("adapter_bytes_resident", "Bytes of adapters in memory.", (s) => Number(s.adapterBytesResident)),
  counter("prompt_tokens", "Tokens of prompts.", (s) => Number(s.promptTokensTotal)),
  counter("prefix_cache_queries", "Tokens of prompts that the cache was asked for.", (s) =>
    Number(s.promptTokensTotal),
  ),
  counter("prefix_cache_hits", "Those of them that it had.", (s) => Number(s.promptTokensCachedTotal)),
  counter("generation_tokens", "Tokens of answers.", (s) => Number(s.generationTokensTotal)),
  counter("spec_decode_num_draft_tokens", "Tokens that were guessed by looking them up in the prompt.", (s) =>
    Number(s.lookupTokensGuessedTotal),
  ),
  counter("spec_decode_num_accepted_tokens", "Those of them that were right.", (s) =>
    Number(s.lookupTokensAcceptedTotal),
  ),
  counter("num_preemptions", "Answers that gave up their pages for others.", (s) => Number(s.preemptionsTotal)),
  counter("engine_steps", "Steps of the running batch.", (s) => Number(s.stepsTotal)),
];

interface AdapterFigures {
  total: number;
  running: number;
}

/** By the name that callers know: `village@1`, whatever id it was loaded under; the id of one from a folder. */
function byAdapter({ adapters }: Stats, labels: Labels): Map<string, AdapterFigures> {
  const figures = new Map<string, AdapterFigures>();
  for (const { name, adapterVersion, requestsTotal, requestsRunning } of adapters) {
    const label = name === "" ? "" : labels.of(adapterVersion === "" ? idOf(name) : versionName(adapterVersion));
    const { total, running } = figures.get(label) ?? { total: 0, running: 0 };
    figures.set(label, { total: total + Number(requestsTotal), running: running + requestsRunning });
  }
  return figures;
}

function observeStats(meter: Meter, inference: InferenceClient, labels: Labels): void {
  const make = ({ kind, name, description }: Figure) =>
    kind === "gauge"
      ? meter.createObservableGauge(`nibble.${name}`, { description })
      : meter.createObservableCounter(`nibble.${name}`, { description });
  const instruments = figures.map((figure) => ({ figure, instrument: make(figure) }));
  const up = meter.createObservableGauge("nibble.inference_up", {
    description: "1 while the inference service answers and has a model.",
  });
  const requests = meter.createObservableCounter("nibble.adapter_requests", {
    description: 'Requests by adapter; "" is the base alone.',
  });
  const running = meter.createObservableGauge("nibble.adapter_requests_running", {
    description: "Answers that run or wait, by adapter.",
  });
  const all: Observable[] = [up, requests, running, ...instruments.map(({ instrument }) => instrument)];
  const observe = async (result: BatchObservableResult): Promise<void> => {
    const stats = await inference.getServingStats({}, { deadlineMs: statsMsMax }).catch(() => undefined);
    result.observe(up, stats ? 1 : 0);
    if (!stats) return;
    for (const { figure, instrument } of instruments) result.observe(instrument, figure.of(stats));
    for (const [adapter, figures] of byAdapter(stats, labels)) {
      result.observe(requests, figures.total, { adapter });
      result.observe(running, figures.running, { adapter });
    }
  };
  meter.addBatchObservableCallback(observe, all);
}
