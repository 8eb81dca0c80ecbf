output "key_ids" {
  description = "Id of the key of each purpose: cluster, disks, database, cache, store, registry, secrets."
  value       = { for purpose, key in google_kms_crypto_key.purpose : purpose => key.id }

  # Who gets an id may use it at once.
  depends_on = [google_kms_crypto_key_iam_member.agent]
}

output "keybroker_key" {
  description = "Project, region, key ring and key with which the key broker's key store unseals itself."
  value = {
    project  = var.project_id
    region   = var.region
    key_ring = google_kms_key_ring.this.name
    key      = google_kms_crypto_key.keybroker.name
  }
}

output "secret_ids" {
  description = "Full name of each secret, by its short one."
  value       = { for name, secret in google_secret_manager_secret.this : name => secret.id }
}
