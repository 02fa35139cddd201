// Traces and metrics of requests through the OpenTelemetry API; without an SDK each call is a no-op. Names follow the
// semantic conventions http.server.*.
import type { IncomingHttpHeaders } from "node:http";
import { context, type Histogram, metrics, propagation, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";

export interface RequestObservation {
  /** Runs work with the request's span as the active one. */
  run<T>(work: () => T): T;
  end(fields: { route: string | undefined; status: number; error?: Error | undefined }): void;
}

/** By provider: an SDK may start after this module was loaded. */
const histograms = new WeakMap<object, Histogram>();
const boundaries = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600];

function durations(): Histogram {
  const provider = metrics.getMeterProvider();
  const known = histograms.get(provider);
  if (known) return known;
  const made = provider.getMeter("nibble").createHistogram("http.server.request.duration", {
    unit: "s",
    description: "Duration of HTTP requests, from their head to the end of the answer.",
    advice: { explicitBucketBoundaries: boundaries },
  });
  histograms.set(provider, made);
  return made;
}

/** As part of the trace that the request's headers name. */
export function observeRequest(method: string, path: string, headers: IncomingHttpHeaders): RequestObservation {
  const started = performance.now();
  const parent = propagation.extract(context.active(), headers);
  const attributes = { "http.request.method": method, "url.path": path };
  const span = trace.getTracer("nibble").startSpan(method, { kind: SpanKind.SERVER, attributes }, parent);
  const active = trace.setSpan(parent, span);
  return {
    run: (work) => context.with(active, work),
    end: ({ route, status, error }) => {
      const ended = {
        "http.response.status_code": status,
        ...(route === undefined ? {} : { "http.route": route }),
        ...(status >= 500 ? { "error.type": String(status) } : {}),
      };
      span.setAttributes(ended);
      if (route !== undefined) span.updateName(`${method} ${route}`);
      if (status >= 500) span.setStatus({ code: SpanStatusCode.ERROR, message: error?.message ?? "" });
      span.end();
      durations().record((performance.now() - started) / 1000, { "http.request.method": method, ...ended });
    },
  };
}
