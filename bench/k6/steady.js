// The same rate all the time: do the objectives hold at the traffic that is expected?
import { describe, objectives, open, rate, seconds } from "./common.js";

export { handleSummary, predict as default } from "./common.js";
export const options = describe(
  open("constant-arrival-rate", { rate, duration: `${seconds}s` }),
  objectives(),
);
