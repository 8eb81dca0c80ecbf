// Put a file up with its progress shown; without this, the form is sent as any other.

const form = document.querySelector("form[data-file-form]");

form?.addEventListener("submit", (event) => {
  event.preventDefault();
  const shown = form.querySelector("[data-file-progress]");
  const bar = shown.querySelector("progress");
  const word = shown.querySelector("[role=status]");
  const button = form.querySelector("button");
  const request = new XMLHttpRequest();
  const tell = (text) => {
    word.textContent = text;
  };
  const fail = (text) => {
    button.disabled = false;
    tell(text);
  };
  shown.hidden = false;
  button.disabled = true;
  tell("Sending …");
  request.upload.addEventListener("progress", (sent) => {
    if (!sent.lengthComputable) return;
    bar.value = sent.loaded / sent.total;
    tell(sent.loaded < sent.total ? `${Math.floor(100 * bar.value)} % sent` : "Being stored …");
  });
  request.addEventListener("load", () => {
    if (request.status === 201) {
      window.location.reload();
      return;
    }
    let problem = {};
    try {
      problem = JSON.parse(request.responseText);
    } catch {
      // No answer of ours.
    }
    fail(problem.detail || problem.title || "The platform did not take it. Try again.");
  });
  request.addEventListener("error", () => fail("The connection broke. Nothing was kept."));
  request.open("POST", form.action);
  request.setRequestHeader("X-CSRFToken", form.elements.csrfmiddlewaretoken.value);
  request.send(new FormData(form));
});
