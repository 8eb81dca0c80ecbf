// Forms that a passkey fills in: data-passkey says whether one is made ("create") or asked
// ("get"), data-options where the question comes from, data-field where the answer goes.

const toBytes = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (letter) => letter.charCodeAt(0));
const toText = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

for (const form of document.querySelectorAll("form[data-passkey]")) {
  if (!window.PublicKeyCredential) continue;
  form.hidden = false;
  form.addEventListener("submit", (event) => {
    const field = form.elements[form.dataset.field || "credential"];
    if (field.value) return;
    event.preventDefault();
    ask(form, field);
  });
}

async function ask(form, field) {
  const button = form.querySelector("[type=submit]");
  const fault = form.querySelector("[data-fault]");
  fault.textContent = "";
  button.disabled = true;
  try {
    const options = await fetchOptions(form);
    const credential = form.dataset.passkey === "create"
      ? await navigator.credentials.create({ publicKey: options })
      : await navigator.credentials.get({ publicKey: options });
    field.value = JSON.stringify(describe(credential));
    form.submit();
  } catch (error) {
    fault.textContent = explain(error, form.dataset.passkey);
    button.disabled = false;
  }
}

async function fetchOptions(form) {
  const token = form.elements.csrfmiddlewaretoken.value;
  const answer = await fetch(form.dataset.options, {
    method: "POST",
    headers: { "X-CSRFToken": token },
    redirect: "error",
  });
  if (!answer.ok) throw new Error(answer.status === 429 ? "throttled" : "refused");
  const options = await answer.json();
  options.challenge = toBytes(options.challenge);
  if (options.user) options.user.id = toBytes(options.user.id);
  for (const list of ["excludeCredentials", "allowCredentials"]) {
    for (const one of options[list] ?? []) one.id = toBytes(one.id);
  }
  return options;
}

function describe(credential) {
  const { response } = credential;
  const fields = { clientDataJSON: toText(response.clientDataJSON) };
  if (response.attestationObject) {
    fields.attestationObject = toText(response.attestationObject);
    fields.transports = response.getTransports?.() ?? [];
  } else {
    fields.authenticatorData = toText(response.authenticatorData);
    fields.signature = toText(response.signature);
    if (response.userHandle) fields.userHandle = toText(response.userHandle);
  }
  return {
    id: credential.id,
    rawId: toText(credential.rawId),
    type: credential.type,
    response: fields,
    clientExtensionResults: credential.getClientExtensionResults(),
  };
}

function explain(error, kind) {
  if (error.name === "InvalidStateError") return "This device has a passkey for you already.";
  if (error.name === "NotAllowedError") {
    return kind === "create" ? "No passkey was made." : "No passkey was shown. Try again, or use another way.";
  }
  if (error.message === "throttled") return "Too many tries. Wait a while, then try again.";
  return "The passkey could not be used. Reload the page and try again.";
}
