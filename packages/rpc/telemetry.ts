// Traces and metrics of calls through the OpenTelemetry API. Without a running SDK every call here is a no-op; the SDK
// is imported only when startTelemetry finds that it is wanted. Names follow the semantic conventions rpc.*.

import type { DescMethod } from "@bufbuild/protobuf";
import type { Metadata } from "@grpc/grpc-js";
import type { Attributes, Context, Histogram, Span, TextMapGetter, TextMapSetter } from "@opentelemetry/api";
import { context, metrics, propagation, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import type { NibbleError } from "#packages/errors";

export interface TelemetryOptions {
  serviceName: string;
  /** Export although no endpoint is set in the environment. Default: OTEL_EXPORTER_OTLP_ENDPOINT decides. */
  enabled?: boolean;
  /** Handed to the SDK instead of what the environment asks for. */
  sdk?: Partial<import("@opentelemetry/sdk-node").NodeSDKConfiguration>;
}

/** Starts the SDK if it is wanted. `shutdown` sends what is left. */
export async function startTelemetry(options: TelemetryOptions): Promise<{ shutdown(): Promise<void> }> {
  const wanted = options.enabled ?? (options.sdk !== undefined || Boolean(process.env["OTEL_EXPORTER_OTLP_ENDPOINT"]));
  if (!wanted) return { shutdown: async () => {} };
  const { NodeSDK } = await import("@opentelemetry/sdk-node");
  // Logs go to standard output as pino lines; they are not exported a second time.
  const sdk = new NodeSDK({ serviceName: options.serviceName, logRecordProcessors: [], ...options.sdk });
  sdk.start();
  // Instruments made before the SDK ran would record nothing for ever.
  durations.clear();
  return { shutdown: () => sdk.shutdown() };
}

const getter: TextMapGetter<Metadata> = {
  keys: (metadata) => Object.keys(metadata.getMap()),
  get: (metadata, key) => metadata.get(key).map(String),
};
const setter: TextMapSetter<Metadata> = { set: (metadata, key, value) => metadata.set(key, value) };

const durations = new Map<string, Histogram>();

/** The instrument is looked up after the SDK had its chance to start; the API keeps no late binding for metrics. */
function recordDuration(side: "server" | "client", seconds: number, attributes: Attributes): void {
  let histogram = durations.get(side);
  if (!histogram) {
    histogram = metrics.getMeter("nibble").createHistogram(`rpc.${side}.call.duration`, {
      unit: "s",
      description: `Duration of ${side} calls.`,
      advice: { explicitBucketBoundaries: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600] },
    });
    durations.set(side, histogram);
  }
  histogram.record(seconds, attributes);
}

export interface Observation {
  /** Runs work with the call's span as the active one. */
  run<T>(work: () => T): T;
  end(code: string, error?: NibbleError): void;
}

function observe(
  side: "server" | "client",
  method: string,
  kind: DescMethod["methodKind"],
  parent: Context,
): Observation & { context: Context } {
  const tracer = trace.getTracer("nibble");
  const spanKind = side === "server" ? SpanKind.SERVER : SpanKind.CLIENT;
  const attributes = { "rpc.system.name": "grpc", "rpc.method": method };
  const isStream = kind !== "unary";
  const span = tracer.startSpan(method, { kind: spanKind, attributes }, parent);
  const started = performance.now();
  // A stream can last for days: its span ends when it opens, and a second short one tells how it closed.
  if (isStream) span.addEvent("stream.open").end();
  const active = trace.setSpan(parent, span);
  return {
    context: active,
    run: (work) => context.with(active, work),
    end: (code, error) => {
      const seconds = (performance.now() - started) / 1000;
      const ending = isStream
        ? tracer.startSpan(
            `${method} close`,
            { kind: spanKind, attributes, links: [{ context: span.spanContext() }] },
            active,
          )
        : span;
      finish(ending, code, error);
      recordDuration(side, seconds, { ...attributes, "rpc.response.status_code": code });
    },
  };
}

function finish(span: Span, code: string, error: NibbleError | undefined): void {
  span.setAttribute("rpc.response.status_code", code);
  if (error) {
    span.setAttribute("error.type", code);
    span.setStatus({ code: SpanStatusCode.ERROR, message: error.message });
  }
  span.end();
}

/** Observes an incoming call as part of the trace that its metadata names. */
export function observeServerCall(method: string, kind: DescMethod["methodKind"], metadata: Metadata): Observation {
  return observe("server", method, kind, propagation.extract(context.active(), metadata, getter));
}

/** Observes an outgoing call, and writes its trace context into the metadata. */
export function observeClientCall(method: string, kind: DescMethod["methodKind"], metadata: Metadata): Observation {
  const observation = observe("client", method, kind, context.active());
  propagation.inject(observation.context, metadata, setter);
  return observation;
}
