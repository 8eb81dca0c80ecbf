// Whoever follows a line of the inbox has read it. Without this, its button says so.

document.addEventListener("click", (event) => {
  const link = event.target.closest(".inbox a.title");
  const form = link?.closest("li").querySelector("form[data-marks-read]");
  if (!form) return;
  const body = new FormData(form);
  body.append("quietly", "1");
  // The page may be left meanwhile.
  fetch(form.action, { method: "POST", body, keepalive: true }).catch(() => {});
});
