// A collector of traces: OTLP over HTTP in JSON, as an OpenTelemetry SDK sends it.
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";

interface OtlpValue {
  stringValue?: string;
  intValue?: string | number;
  doubleValue?: number;
  boolValue?: boolean;
  arrayValue?: { values: OtlpValue[] };
}
interface OtlpAttribute {
  key: string;
  value: OtlpValue;
}
interface OtlpSpan {
  traceId: string;
  spanId: string;
  parentSpanId?: string;
  name: string;
  kind: number;
  startTimeUnixNano: string;
  endTimeUnixNano: string;
  attributes: OtlpAttribute[];
  events: { name: string; timeUnixNano: string; attributes: OtlpAttribute[] }[];
  links: { traceId: string; spanId: string }[];
}
interface OtlpTraces {
  resourceSpans: { resource: { attributes: OtlpAttribute[] }; scopeSpans: { spans: OtlpSpan[] }[] }[];
}

export type Attributes = Record<string, unknown>;

export interface CollectedSpan extends Omit<OtlpSpan, "attributes" | "events"> {
  service: string;
  attributes: Attributes;
  events: { name: string; attributes: Attributes }[];
  beginMs: number;
  ms: number;
}

function plain({ stringValue, intValue, doubleValue, boolValue, arrayValue }: OtlpValue): unknown {
  if (arrayValue) return arrayValue.values.map(plain);
  return stringValue ?? doubleValue ?? boolValue ?? Number(intValue);
}

const attributesOf = (list: readonly OtlpAttribute[]): Attributes =>
  Object.fromEntries(list.map(({ key, value }) => [key, plain(value)]));

function collected(service: string, span: OtlpSpan): CollectedSpan {
  const [begin, end] = [span.startTimeUnixNano, span.endTimeUnixNano].map(
    (nanos) => Number(BigInt(nanos) / 1000n) / 1000,
  );
  return {
    ...span,
    service,
    attributes: attributesOf(span.attributes),
    events: span.events.map(({ name, attributes }) => ({ name, attributes: attributesOf(attributes) })),
    beginMs: begin!,
    ms: end! - begin!,
  };
}

export interface Collector {
  /** What makes a process send its traces here, soon. */
  env: Record<string, string>;
  spans: CollectedSpan[];
}

export async function startCollector(t: TestContext): Promise<Collector> {
  const spans: CollectedSpan[] = [];
  const server = createServer(async (request, response) => {
    let text = "";
    for await (const chunk of request.setEncoding("utf8")) text += chunk;
    const { resourceSpans = [] } = (request.url === "/v1/traces" ? JSON.parse(text) : {}) as Partial<OtlpTraces>;
    for (const { resource, scopeSpans } of resourceSpans) {
      const service = String(attributesOf(resource.attributes)["service.name"]);
      for (const { spans: some } of scopeSpans) spans.push(...some.map((span) => collected(service, span)));
    }
    response.setHeader("content-type", "application/json").end("{}");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  const { port } = server.address() as AddressInfo;
  return {
    spans,
    env: {
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${port}`,
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      OTEL_METRICS_EXPORTER: "none",
      OTEL_BSP_SCHEDULE_DELAY: "50",
    },
  };
}

/** The spans of a trace as a tree, a line each, by the time at which they begin. */
export function treeOf(spans: readonly CollectedSpan[], parent?: string, depth = 0): string[] {
  const known = new Set(spans.map(({ spanId }) => spanId));
  const here = spans.filter(({ parentSpanId: of }) =>
    parent === undefined ? of === undefined || !known.has(of) : of === parent,
  );
  return here
    .toSorted((a, b) => a.beginMs - b.beginMs)
    .flatMap((span) => [
      `${"  ".repeat(depth)}${span.name} [${span.service.replace("nibble-", "")}] ${span.ms.toFixed(1)} ms`,
      ...treeOf(spans, span.spanId, depth + 1),
    ]);
}
