// A request's way to and through the engine as spans of its trace: its adapter, the wait, each part of the prompt, the steps of the answer. The
// engine's thread has no telemetry: it records steps for requests that are sampled, and the spans are made of the records.
// Without an SDK, or for a request that is not sampled, nothing is recorded.
import {
  type Attributes,
  type Context,
  context,
  type Link,
  type Span,
  SpanStatusCode,
  trace,
} from "@opentelemetry/api";
import type {
  CallOptions,
  EngineModel,
  GeneratedToken,
  GenerateInput,
  GenerateResult,
  ScoreInput,
  StepRecord,
} from "#packages/engine";
import { NibbleError } from "#packages/errors";

/** Events that a span keeps, by OpenTelemetry's default. */
const stepsPerSpanMax = 128;

/** As the header traceparent of W3C Trace Context: how spans are named to the engine. */
const nameOf = (span: Span): string => {
  const { traceId, spanId } = span.spanContext();
  return `00-${traceId}-${spanId}-01`;
};

function linkTo(name: string): Link {
  const [, traceId = "", spanId = ""] = name.split("-");
  return { context: { traceId, spanId, traceFlags: 1 } };
}

/** Waiting for an adapter, as a span: it may have to come from disk, and wait for room. */
export async function holdTraced<T>(adapter: string, work: () => Promise<T>): Promise<T> {
  const span = trace.getTracer("nibble").startSpan("adapter.hold", { attributes: { "nibble.adapter": adapter } });
  try {
    return await work();
  } catch (thrown) {
    fail(span, thrown);
    throw thrown;
  } finally {
    span.end();
  }
}

function fail(span: Span, thrown: unknown): void {
  const { code, message } = NibbleError.from(thrown);
  span.setAttribute("error.type", code).setStatus({ code: SpanStatusCode.ERROR, message });
}

/** As `EngineModel.generate`, in a span of the active trace. */
export const generateTraced = (model: EngineModel, input: GenerateInput, call: CallOptions<GeneratedToken>) =>
  inSpan("engine.generate", (traceAs) => model.generate({ ...input, traceAs }, call));

/** As `EngineModel.score`, in a span of the active trace. */
export const scoreTraced = (model: EngineModel, input: ScoreInput, call: CallOptions) =>
  inSpan("engine.score", (traceAs) => model.score({ ...input, traceAs }, call));

/** `work` gets the name by which the engine records its steps; null: they are not recorded. */
async function inSpan<R extends GenerateResult>(name: string, work: (traceAs: string | null) => Promise<R>) {
  const span = trace.getTracer("nibble").startSpan(name);
  if (!span.isRecording()) return work(null);
  try {
    const result = await work(nameOf(span));
    describe(span, result);
    return result;
  } catch (thrown) {
    fail(span, thrown);
    throw thrown;
  } finally {
    span.end();
  }
}

function describe(span: Span, { reason, timing, trace: found }: GenerateResult): void {
  span.setAttributes({
    "gen_ai.usage.input_tokens": timing.promptTokens,
    "gen_ai.usage.output_tokens": timing.newTokens,
    "gen_ai.response.finish_reasons": [reason],
    "nibble.prompt.cached_tokens": timing.cachedTokens,
  });
  if (!found || found.queuedMs === null) return;
  if (found.stepsUnrecorded > 0) span.setAttribute("nibble.steps_unrecorded", found.stepsUnrecorded);
  const inside = trace.setSpan(context.active(), span);
  const tracer = trace.getTracer("nibble");
  const queue = tracer.startSpan("engine.queue", { startTime: found.queuedMs }, inside);
  queue.end(found.queuedMs + found.queueMs);
  for (const steps of parts(found.steps)) spanOf(steps, inside);
}

/** Each part of a prompt is one; steps of the answer are together as far as a span holds them. */
function parts(steps: readonly StepRecord[]): StepRecord[][] {
  const all: StepRecord[][] = [];
  for (const step of steps) {
    const last = all.at(-1);
    if (last && !step.isPrefill && !last[0]?.isPrefill && last.length < stepsPerSpanMax) last.push(step);
    else all.push([step]);
  }
  return all;
}

const attributesOf = (step: StepRecord): Attributes => ({
  "nibble.step": step.step,
  "nibble.step.ms": step.ms,
  "nibble.step.tokens": step.tokens,
  "nibble.batch.sequences": step.sequences,
  "nibble.batch.tokens": step.stepTokens,
  "nibble.kv.pages_used": step.pagesUsed,
  "nibble.kv.pages_total": step.pagesTotal,
});

function spanOf(steps: readonly StepRecord[], inside: Context): void {
  const [first, last] = [steps[0], steps.at(-1)];
  if (!first || !last) return;
  const links = steps.flatMap(({ met }) => met.map(linkTo));
  const attributes = first.isPrefill
    ? attributesOf(first)
    : {
        "nibble.steps": steps.length,
        "nibble.step.first": first.step,
        "nibble.step.last": last.step,
        "nibble.step.tokens": steps.reduce((sum, { tokens }) => sum + tokens, 0),
        "nibble.batch.sequences_max": Math.max(...steps.map(({ sequences }) => sequences)),
      };
  const name = first.isPrefill ? "engine.prefill" : "engine.decode";
  const span = trace.getTracer("nibble").startSpan(name, { startTime: first.beginMs, links, attributes }, inside);
  if (!first.isPrefill) for (const step of steps) span.addEvent("step", attributesOf(step), step.beginMs);
  span.end(last.beginMs + last.ms);
}
