// GET /healthz: the process is there. GET /readyz: a request would be answered now. GET /metrics.
import type { InferenceClient } from "#packages/client";
import { NibbleError } from "#packages/errors";
import { type Answer, type Request, type Route, route } from "#packages/http";

const readyMsMax = 2000;

/** Asks the engine itself, past every cache: a process that is there with an engine that is not is not ready. */
async function ready(inference: InferenceClient, { signal, drainSignal }: Request): Promise<Answer> {
  if (drainSignal.aborted) return { status: 503, json: { status: "draining" } };
  try {
    const { model } = await inference.getModel({ name: "" }, { signal, deadlineMs: readyMsMax });
    return { json: { status: "ready", model: model?.name ?? "", digest: model?.digest ?? "" } };
  } catch (thrown) {
    return { status: 503, json: { status: "not ready", reason: NibbleError.from(thrown).message } };
  }
}

export function healthRoutes(inference: InferenceClient, metrics: () => Promise<string>): Route[] {
  return [
    ...route("GET", "/healthz", async () => ({ json: { status: "ok" } })),
    ...route("GET", "/readyz", (request) => ready(inference, request)),
    ...route("GET", "/metrics", async () => {
      const text = await metrics();
      const headers = { "Content-Type": "text/plain; version=0.0.4; charset=utf-8" };
      return { headers, text };
    }),
  ];
}
