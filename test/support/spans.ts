// Telemetry whose spans a test reads: they are kept in memory as they end.
import type { TestContext } from "node:test";
import type { NodeSDKConfiguration } from "@opentelemetry/sdk-node";
import { startTelemetry } from "#packages/rpc";

type Processor = NonNullable<NodeSDKConfiguration["spanProcessors"]>[number];
export type Span = Parameters<Processor["onEnd"]>[0];

/** The spans that have ended, in that order; more come until the test ends. */
export async function recordSpans(t: TestContext): Promise<Span[]> {
  const spans: Span[] = [];
  const processor: Processor = {
    onStart: () => {},
    onEnd: (span) => void spans.push(span),
    forceFlush: async () => {},
    shutdown: async () => {},
  };
  const sdk = { spanProcessors: [processor], metricReaders: [], resourceDetectors: [] };
  const telemetry = await startTelemetry({ serviceName: "test", sdk });
  t.after(() => telemetry.shutdown());
  return spans;
}
