// More and more, up to ten times the rate, until an objective breaks: where is the end? It stops
// there by itself, and the summary says which rate was reached.
import { describe, objectives, open, rate, seconds } from "./common.js";

export { handleSummary, predict as default } from "./common.js";
const steps = 10;
const wait = `${Math.max(1, Math.round(seconds / 10))}s`;
// One objective that breaks ends the run, once enough was measured.
const ending = (conditions) =>
  conditions.map((threshold) => ({ threshold, abortOnFail: true, delayAbortEval: wait }));
const limits = Object.fromEntries(
  Object.entries(objectives()).map(([name, conditions]) => [name, ending(conditions)]),
);
const stages = Array.from({ length: steps }, (_, step) => ({
  target: rate * (step + 1),
  duration: `${Math.max(1, Math.round(seconds / steps))}s`,
}));
export const options = describe(open("ramping-arrival-rate", { startRate: rate, stages }), limits);
