# Keys, and containers for secrets. No value of a secret passes through Terraform: it would stay
# in the state for good. docs/gke.md fills them, in the key ceremony.

locals {
  # One key per purpose, so that one of them can be shut without the others.
  purposes = toset(["cluster", "disks", "database", "cache", "store", "registry", "secrets"])

  # The service of Google that uses each key, by the account that it works as.
  agents = {
    cluster  = "service-${var.project_number}@container-engine-robot.iam.gserviceaccount.com"
    disks    = "service-${var.project_number}@compute-system.iam.gserviceaccount.com"
    database = "service-${var.project_number}@gcp-sa-cloud-sql.iam.gserviceaccount.com"
    cache    = "service-${var.project_number}@cloud-redis.iam.gserviceaccount.com"
    store    = "service-${var.project_number}@gs-project-accounts.iam.gserviceaccount.com"
    registry = "service-${var.project_number}@gcp-sa-artifactregistry.iam.gserviceaccount.com"
    secrets  = "service-${var.project_number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
  }
}

resource "google_kms_key_ring" "this" {
  project  = var.project_id
  name     = var.name
  location = var.region
}

resource "google_kms_crypto_key" "purpose" {
  for_each = local.purposes

  name            = each.key
  key_ring        = google_kms_key_ring.this.id
  purpose         = "ENCRYPT_DECRYPT"
  rotation_period = var.rotation_period

  # A version that is destroyed by mistake can be brought back for so long.
  destroy_scheduled_duration = "2592000s"

  version_template {
    algorithm        = "GOOGLE_SYMMETRIC_ENCRYPTION"
    protection_level = var.protection_level
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_kms_crypto_key_iam_member" "agent" {
  for_each = local.agents

  crypto_key_id = google_kms_crypto_key.purpose[each.key].id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${each.value}"
}

# The root of the key broker's keys: it unseals the key store that keeps the KEK of each model.
# Whoever destroys it makes every sealed model unreadable, for good.
resource "google_kms_crypto_key" "keybroker" {
  name                       = "keybroker-kek"
  key_ring                   = google_kms_key_ring.this.id
  purpose                    = "ENCRYPT_DECRYPT"
  rotation_period            = var.rotation_period
  destroy_scheduled_duration = "2592000s"

  version_template {
    algorithm        = "GOOGLE_SYMMETRIC_ENCRYPTION"
    protection_level = var.protection_level
  }

  lifecycle {
    prevent_destroy = true
  }
}

resource "google_kms_crypto_key_iam_member" "keybroker" {
  crypto_key_id = google_kms_crypto_key.keybroker.id
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = "serviceAccount:${var.keybroker_email}"
}

# Vault reads the key's state before it unseals itself.
resource "google_kms_crypto_key_iam_member" "keybroker_viewer" {
  crypto_key_id = google_kms_crypto_key.keybroker.id
  role          = "roles/cloudkms.viewer"
  member        = "serviceAccount:${var.keybroker_email}"
}

resource "google_secret_manager_secret" "this" {
  for_each = var.components

  project             = var.project_id
  secret_id           = "${var.name}-${each.key}"
  labels              = var.labels
  version_destroy_ttl = "604800s"

  replication {
    user_managed {
      replicas {
        location = var.region

        customer_managed_encryption {
          kms_key_name = google_kms_crypto_key.purpose["secrets"].id
        }
      }
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.agent]
}

resource "google_secret_manager_secret_iam_member" "reader" {
  for_each = var.components

  project   = var.project_id
  secret_id = google_secret_manager_secret.this[each.key].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = "serviceAccount:${var.reader_email}"
}
