output "machines_email" {
  description = "Account that the machines of the cluster work as."
  value       = google_service_account.machines.email
}

output "component_emails" {
  description = "Account of each component: web, gateway, worker, beat, keybroker, node."
  value       = { for component, account in google_service_account.component : component => account.email }
}

output "secrets_email" {
  description = "Account of the External Secrets operator."
  value       = google_service_account.secrets.email
}
