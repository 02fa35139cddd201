// The kit of what speaks HTTP: routes, bodies with limits, events, errors, the drain. It knows no API.
export { badRequest, isObject, lengthOf, linesOf, objectOf, parseObject, textField, textLinesOf } from "./body.ts";
export { checkCaller, isLoopback } from "./callers.ts";
export type { EventsOptions } from "./events.ts";
export { events } from "./events.ts";
export { route } from "./router.ts";
export type { HttpServerOptions } from "./server.ts";
export { HttpServer } from "./server.ts";
export type { Answer, Handler, Request, Route } from "./types.ts";
