# One identity per component. A pod works as the account of its component and as nobody else;
# the machines have one of their own, which can write logs and pull images.

locals {
  components = toset(["web", "gateway", "worker", "beat", "keybroker", "node"])
}

resource "google_service_account" "machines" {
  project      = var.project_id
  account_id   = "${var.name}-machines"
  display_name = "Machines of ${var.name}"
}

# Logs, metrics and the state of the machine: what GKE itself asks for, and no more.
resource "google_project_iam_member" "machines" {
  project = var.project_id
  role    = "roles/container.defaultNodeServiceAccount"
  member  = "serviceAccount:${google_service_account.machines.email}"
}

resource "google_service_account" "component" {
  for_each = local.components

  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = "Component ${each.key} of ${var.name}"
}

# The service account of the cluster is the account of the project; no key file is made.
resource "google_service_account_iam_member" "component" {
  for_each = local.components

  service_account_id = google_service_account.component[each.key].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project_id}.svc.id.goog[${var.namespace}/${var.release}-${each.key}]"
}

# The External Secrets operator copies each component's secret out of Secret Manager; it is not
# part of the release and runs in a namespace of its own.
resource "google_service_account" "secrets" {
  project      = var.project_id
  account_id   = "${var.name}-secrets"
  display_name = "External Secrets operator of ${var.name}"
}

resource "google_service_account_iam_member" "secrets" {
  service_account_id = google_service_account.secrets.name
  role               = "roles/iam.workloadIdentityUser"
  member             = "serviceAccount:${var.project_id}.svc.id.goog[external-secrets/external-secrets]"
}
